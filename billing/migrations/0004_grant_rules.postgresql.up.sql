CREATE FUNCTION billing_refuse_unfit_grant_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.organization_id, NEW.transfer_id, NEW.amount_nanos, NEW.created_at)
            IS DISTINCT FROM
       (OLD.id, OLD.organization_id, OLD.transfer_id, OLD.amount_nanos, OLD.created_at)
       OR NEW.expires_at IS DISTINCT FROM OLD.expires_at
       OR NEW.used_nanos < OLD.used_nanos OR NEW.expired_nanos < OLD.expired_nanos
    THEN
        RAISE EXCEPTION 'Of a grant only what is used and expired changes, and it only grows.'
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'billing_grant_only_spent_grows';
    END IF;
    RETURN NEW;
END $$;
--
CREATE TRIGGER billing_grant_only_spent_grows BEFORE UPDATE ON billing_creditgrant
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_unfit_grant_change();
--
CREATE TRIGGER billing_creditgrant_no_delete BEFORE DELETE ON billing_creditgrant
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
--
CREATE TRIGGER billing_creditgrant_no_truncate BEFORE TRUNCATE ON billing_creditgrant
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_change();
--
CREATE TRIGGER billing_grantuse_no_change BEFORE UPDATE OR DELETE ON billing_grantuse
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
--
CREATE TRIGGER billing_grantuse_no_truncate BEFORE TRUNCATE ON billing_grantuse
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_change();
--
CREATE FUNCTION billing_refuse_foreign_grant_use() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM billing_creditgrant AS lot
        JOIN billing_transfer AS transfer ON transfer.organization_id = lot.organization_id
        WHERE lot.id = NEW.grant_id AND transfer.id = NEW.transfer_id
          AND transfer.amount_nanos >= NEW.amount_nanos
    ) THEN
        RAISE EXCEPTION 'A transfer uses grants of its own organization, at most its amount.'
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'billing_grant_use_fits_its_transfer';
    END IF;
    RETURN NEW;
END $$;
--
CREATE TRIGGER billing_grant_use_fits_its_transfer BEFORE INSERT ON billing_grantuse
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_foreign_grant_use();
