-- The users of the replica. MariaDB's image runs this file in the database `shop` when it creates the server.
CREATE USER rowcast_worker IDENTIFIED BY 'worker-secret';
CREATE USER rowcast_reader IDENTIFIED BY 'reader-secret';
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES ON shop.* TO rowcast_worker;
-- For rowcast status, check and verify.
GRANT SELECT ON shop.* TO rowcast_reader;
