CREATE OR REPLACE FUNCTION billing_roll_up_usage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO billing_usagerollup (
        period, starts_at, is_merged, organization_id, workspace_id, deployment_id, deploy_id,
        key_id, model_requested, model_served, provider, upstream_model, usage_source,
        calls, errors, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens,
        reasoning_tokens, cost_nanos
    )
    SELECT
        'HOUR', date_trunc('hour', started_at, 'UTC'), FALSE, organization_id, workspace_id,
        deployment_id, deploy_id, key_id, model_requested, model_served, provider, upstream_model,
        usage_source,
        count(*), count(*) FILTER (WHERE status NOT IN ('FINISHED', 'CLIENT_GONE')),
        sum(input_tokens), sum(cache_read_tokens), sum(cache_write_tokens), sum(output_tokens),
        sum(reasoning_tokens), sum(cost_nanos)
    FROM added
    GROUP BY
        date_trunc('hour', started_at, 'UTC'), organization_id, workspace_id, deployment_id,
        deploy_id, key_id, model_requested, model_served, provider, upstream_model, usage_source;
    RETURN NULL;
END $$;
