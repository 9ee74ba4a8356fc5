CREATE TRIGGER billing_usagerecord_no_update BEFORE UPDATE ON billing_usagerecord
BEGIN
    SELECT RAISE(ABORT, 'Rows of billing_usagerecord are never edited or deleted: add a new row instead.');
END;
--
CREATE TRIGGER billing_usagerecord_no_delete BEFORE DELETE ON billing_usagerecord
BEGIN
    SELECT RAISE(ABORT, 'Rows of billing_usagerecord are never edited or deleted: add a new row instead.');
END;
--
CREATE TRIGGER billing_usagerecord_roll_up AFTER INSERT ON billing_usagerecord
BEGIN
    INSERT INTO billing_usagerollup (
        period, starts_at, is_merged, organization_id, workspace_id, deployment_id, deploy_id,
        key_id, model_requested, model_served, provider, upstream_model, usage_source,
        calls, errors, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens,
        reasoning_tokens, cost_nanos
    )
    VALUES (
        'HOUR', substr(NEW.started_at, 1, 13) || ':00:00', FALSE, NEW.organization_id,
        NEW.workspace_id, NEW.deployment_id, NEW.deploy_id, NEW.key_id, NEW.model_requested,
        NEW.model_served, NEW.provider, NEW.upstream_model, NEW.usage_source,
        1, NEW.status NOT IN ('FINISHED', 'CLIENT_GONE'),
        NEW.input_tokens, NEW.cache_read_tokens, NEW.cache_write_tokens, NEW.output_tokens,
        NEW.reasoning_tokens, NEW.cost_nanos
    );
END;
