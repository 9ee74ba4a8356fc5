CREATE FUNCTION billing_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'Rows of % are never edited or deleted: add a new row instead.', TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
--
CREATE TRIGGER billing_transfer_no_change BEFORE UPDATE OR DELETE ON billing_transfer
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
--
CREATE TRIGGER billing_transfer_no_truncate BEFORE TRUNCATE ON billing_transfer
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_change();
--
CREATE TRIGGER billing_priceversion_no_change BEFORE UPDATE OR DELETE ON billing_priceversion
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
--
CREATE TRIGGER billing_priceversion_no_truncate BEFORE TRUNCATE ON billing_priceversion
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_change();
--
CREATE TRIGGER billing_usagerecord_no_change BEFORE UPDATE OR DELETE ON billing_usagerecord
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
--
CREATE TRIGGER billing_usagerecord_no_truncate BEFORE TRUNCATE ON billing_usagerecord
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_change();
--
CREATE FUNCTION billing_refuse_unfit_resolution() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM billing_transfer AS hold
        WHERE hold.id = NEW.pending_transfer_id
          AND hold.phase = 'PENDING'
          AND hold.organization_id = NEW.organization_id
          AND hold.debit_account_id = NEW.debit_account_id
          AND hold.credit_account_id = NEW.credit_account_id
          AND hold.amount_nanos >= NEW.amount_nanos
    ) THEN
        RAISE EXCEPTION 'A resolution moves at most what is held, between the same accounts.'
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'billing_transfer_resolution_fits_its_hold';
    END IF;
    RETURN NEW;
END $$;
--
CREATE TRIGGER billing_transfer_resolution_fits_its_hold BEFORE INSERT ON billing_transfer
    FOR EACH ROW WHEN (NEW.pending_transfer_id IS NOT NULL)
    EXECUTE FUNCTION billing_refuse_unfit_resolution();
