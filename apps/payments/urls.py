"""The REST paths of the payments app, below `/v1/`."""

from django.urls import path

from apps.payments.api.proofs import PaymentProof

urlpatterns = [path("payments/<str:digest>/proof", PaymentProof.as_view(), name="payment-proof")]
