"""What customers and the shop's owner ask for."""

from django.db import transaction
from django.http import JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET, require_POST

from shop.canvases import fulfil, renew
from shop.models import Order


@require_POST
@transaction.atomic
def place_order(request):
    """Store an order, and have it fulfilled."""
    order = Order.objects.create(customer=request.POST["customer"])
    transaction.on_commit(fulfil(order.pk).delay)
    return JsonResponse({"order": order.pk}, status=201)


@require_POST
@transaction.atomic
def renew_orders(request):
    """Have all orders that were confirmed charged and confirmed again."""
    orders = Order.objects.filter(status=Order.Status.CONFIRMED).order_by("pk")
    order_ids = list(orders.values_list("pk", flat=True))
    Order.objects.filter(pk__in=order_ids).update(status=Order.Status.RESERVED, receipt="")
    transaction.on_commit(renew(order_ids).delay)
    return JsonResponse({"orders": order_ids}, status=202)


@require_GET
def show_order(request, order_id):
    """Show how far an order has come."""
    order = get_object_or_404(Order, pk=order_id)
    return JsonResponse({"order": order.pk, "status": order.status, "receipt": order.receipt})
