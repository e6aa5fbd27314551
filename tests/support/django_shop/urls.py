"""The project's pages."""

from django.contrib import admin
from django.urls import path

from support.django_shop.views import order, order_and_fail, order_async

urlpatterns = [
    path("admin/", admin.site.urls),
    path("order/<customer>", order),
    path("order-and-fail/<customer>", order_and_fail),
    path("order-async/<customer>", order_async),
]
