CREATE TRIGGER billing_transfer_no_update BEFORE UPDATE ON billing_transfer
BEGIN
    SELECT RAISE(ABORT, 'Rows of billing_transfer are never edited or deleted: add a new row instead.');
END;
--
CREATE TRIGGER billing_transfer_no_delete BEFORE DELETE ON billing_transfer
BEGIN
    SELECT RAISE(ABORT, 'Rows of billing_transfer are never edited or deleted: add a new row instead.');
END;
--
CREATE TRIGGER billing_priceversion_no_update BEFORE UPDATE ON billing_priceversion
BEGIN
    SELECT RAISE(ABORT, 'Rows of billing_priceversion are never edited or deleted: add a new row instead.');
END;
--
CREATE TRIGGER billing_priceversion_no_delete BEFORE DELETE ON billing_priceversion
BEGIN
    SELECT RAISE(ABORT, 'Rows of billing_priceversion are never edited or deleted: add a new row instead.');
END;
--
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
CREATE TRIGGER billing_transfer_resolution_fits_its_hold BEFORE INSERT ON billing_transfer
WHEN NEW.pending_transfer_id IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM billing_transfer AS hold
    WHERE hold.id = NEW.pending_transfer_id
      AND hold.phase = 'PENDING'
      AND hold.organization_id = NEW.organization_id
      AND hold.debit_account_id = NEW.debit_account_id
      AND hold.credit_account_id = NEW.credit_account_id
      AND hold.amount_nanos >= NEW.amount_nanos
)
BEGIN
    SELECT RAISE(ABORT, 'billing_transfer_resolution_fits_its_hold: a resolution moves at most what is held, between the same accounts.');
END;
