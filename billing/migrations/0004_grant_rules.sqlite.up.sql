CREATE TRIGGER billing_grant_only_spent_grows BEFORE UPDATE ON billing_creditgrant
WHEN NEW.id IS NOT OLD.id OR NEW.organization_id IS NOT OLD.organization_id
  OR NEW.transfer_id IS NOT OLD.transfer_id OR NEW.amount_nanos IS NOT OLD.amount_nanos
  OR NEW.created_at IS NOT OLD.created_at OR NEW.expires_at IS NOT OLD.expires_at
  OR NEW.used_nanos < OLD.used_nanos OR NEW.expired_nanos < OLD.expired_nanos
BEGIN
    SELECT RAISE(ABORT, 'billing_grant_only_spent_grows: of a grant only what is used and expired changes, and it only grows.');
END;
--
CREATE TRIGGER billing_creditgrant_no_delete BEFORE DELETE ON billing_creditgrant
BEGIN
    SELECT RAISE(ABORT, 'Rows of billing_creditgrant are never edited or deleted: add a new row instead.');
END;
--
CREATE TRIGGER billing_grantuse_no_update BEFORE UPDATE ON billing_grantuse
BEGIN
    SELECT RAISE(ABORT, 'Rows of billing_grantuse are never edited or deleted: add a new row instead.');
END;
--
CREATE TRIGGER billing_grantuse_no_delete BEFORE DELETE ON billing_grantuse
BEGIN
    SELECT RAISE(ABORT, 'Rows of billing_grantuse are never edited or deleted: add a new row instead.');
END;
--
CREATE TRIGGER billing_grant_use_fits_its_transfer BEFORE INSERT ON billing_grantuse
WHEN NOT EXISTS (
    SELECT 1 FROM billing_creditgrant AS lot
    JOIN billing_transfer AS transfer ON transfer.organization_id = lot.organization_id
    WHERE lot.id = NEW.grant_id AND transfer.id = NEW.transfer_id
      AND transfer.amount_nanos >= NEW.amount_nanos
)
BEGIN
    SELECT RAISE(ABORT, 'billing_grant_use_fits_its_transfer: a transfer uses grants of its own organization, at most its amount.');
END;
