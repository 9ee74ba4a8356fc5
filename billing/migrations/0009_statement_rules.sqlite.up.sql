CREATE TRIGGER billing_statement_no_update BEFORE UPDATE ON billing_statement
BEGIN
    SELECT RAISE(ABORT, 'Rows of billing_statement are never edited or deleted: add a new row instead.');
END;
--
CREATE TRIGGER billing_statement_no_delete BEFORE DELETE ON billing_statement
BEGIN
    SELECT RAISE(ABORT, 'Rows of billing_statement are never edited or deleted: add a new row instead.');
END;
