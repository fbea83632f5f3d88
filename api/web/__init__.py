"""The page at `/`: chat and fleet. Its files are static; what it shows comes from the API."""

from fastapi import Depends

from api.access.dependencies import authenticated
from api.endpoint import Router
from api.web import pages, requests

router = Router()
router.include_router(pages.router)
router.include_router(requests.router, dependencies=[Depends(authenticated)])
