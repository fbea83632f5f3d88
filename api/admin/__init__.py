"""What operators ask: is it alive, what does it do, and the jobs themselves."""

from fastapi import Depends

from api.access.dependencies import administrator, authenticated
from api.admin import adapters, fleet, jobs, probes
from api.endpoint import Router

router = Router()
router.include_router(probes.router, tags=["operations"])
router.include_router(jobs.router, dependencies=[Depends(authenticated)])
router.include_router(fleet.router, dependencies=[Depends(administrator)])
router.include_router(adapters.router, dependencies=[Depends(administrator)])
