"""`GET /v1/payments/{digest}/proof`: anybody may check that a payment is anchored."""

from typing import Any, Final

import msgspec
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.views import APIView

from apps.core.errors import DomainError
from apps.payments.selectors.proofs import proof_of
from apps.payments.services.network import current_network
from machpay.protocol.encoding import parse_hex
from machpay.protocol.errors import MalformedError


class BadDigest(DomainError):
    code = "malformed"
    status = 400


def _shape(name: str, **fields: serializers.Field[Any, Any, Any, Any]) -> serializers.Serializer[Any]:
    """A serializer that only describes."""
    return inline_serializer(name, fields)


_PROOF: Final = _shape(
    "InclusionProof",
    digest=serializers.CharField(),
    leaf=_shape(
        "LeafPlace",
        index=serializers.IntegerField(),
        charged=serializers.CharField(),
        served_total=serializers.CharField(),
    ),
    leaf_count=serializers.IntegerField(),
    siblings=serializers.ListField(child=serializers.CharField()),
    root=serializers.CharField(),
    batch=_shape(
        "AnchoredBatch",
        seq=serializers.IntegerField(),
        address=serializers.CharField(),
        transaction=serializers.CharField(),
        slot=serializers.IntegerField(),
        committed_at=serializers.DateTimeField(),
    ),
)


class PaymentProof(APIView):
    """Public: a digest is known only to who made or served the payment, and the root is on the chain."""

    authentication_classes = ()
    permission_classes = ()

    @extend_schema(
        operation_id="payment_proof",
        summary="Merkle proof that a payment is in a batch anchored on the chain",
        parameters=[OpenApiParameter("digest", str, OpenApiParameter.PATH, description="64 hex digits")],
        responses={
            200: _PROOF,
            400: OpenApiResponse(description="`malformed`"),
            404: OpenApiResponse(description="`unknown_payment`"),
            409: OpenApiResponse(description="`not_batched_yet`: see Retry-After"),
            503: OpenApiResponse(description="`archive_unavailable`"),
        },
    )
    def get(self, request: Request, digest: str) -> HttpResponse:
        """Answer `machpay.protocol.proofs.ProofAnswer`. It never changes, so anybody may keep it."""
        try:
            wanted = parse_hex(digest, "digest", 32)
        except MalformedError as error:
            raise BadDigest(error.detail) from error
        answer = proof_of(wanted, network=current_network())
        response = HttpResponse(msgspec.json.encode(answer), content_type="application/json")
        response["Cache-Control"] = "public, max-age=31536000, immutable"
        return response
