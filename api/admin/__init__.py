"""What operators ask: is it alive, what does it do, and the jobs themselves."""

from fastapi import APIRouter, Depends

from api.access.dependencies import administrator, authenticated
from api.admin import fleet, jobs, probes

router = APIRouter()
router.include_router(probes.router, tags=["operations"])
router.include_router(jobs.router, dependencies=[Depends(authenticated)])
router.include_router(fleet.router, dependencies=[Depends(administrator)])
