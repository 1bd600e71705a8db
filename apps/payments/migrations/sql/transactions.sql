-- Payments of both kinds in one shape. Amounts and statuses are the money path's; latency is telemetry's, because only
-- the gateway has measured it: its event names the payment's digest and carries the second of the receipt, or one of
-- the next two, so it is found by its key. NULL until it has arrived, and for payments that nobody measures.
CREATE VIEW transactions AS
SELECT encode(i.digest, 'hex') AS id,
       encode(i.digest, 'hex') AS hash,
       'intent'::text AS kind,
       NULL::bigint AS from_agent_id,
       NULL::bigint AS to_vendor_id,
       i.agent::text AS from_agent,
       i.vendor::text AS to_vendor,
       i.gateway::text AS gateway,
       (i.charged_atomic / 1000000)::numeric(20, 9) AS amount,
       i.charged_atomic AS amount_atomic,
       i.status::text AS status,
       (
           SELECT round(p.latency_ms)::integer FROM payment_authorized p
           WHERE p.event_time IN (i.served_at, i.served_at + interval '1 second', i.served_at + interval '2 seconds')
             AND p.source = 'gateway:' || i.gateway AND p.id = encode(i.digest, 'hex')
           LIMIT 1
       ) AS latency,
       i.settled_at,
       i.nonce_time AS created_at
FROM payment_intents i
WHERE i.charged_atomic > 0
UNION ALL
SELECT 'custodial-' || c.id,
       encode(sha256(('custodial-' || c.id)::bytea), 'hex'),
       'custodial',
       c.payer_id,
       c.payee_id,
       NULL,
       NULL,
       NULL,
       (c.amount_atomic / 1000000)::numeric(20, 9),
       c.amount_atomic,
       'SETTLED',
       NULL,
       c.created_at,
       c.created_at
FROM payments_custodial_payment c;
