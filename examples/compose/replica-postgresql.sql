-- The users of the replica. PostgreSQL's image runs this file when it creates the database.
CREATE ROLE rowcast_worker LOGIN PASSWORD 'worker-secret';
CREATE ROLE rowcast_reader LOGIN PASSWORD 'reader-secret';
-- The worker owns the tables that it creates.
GRANT CREATE ON SCHEMA public TO rowcast_worker;
-- For rowcast status, check and verify.
ALTER DEFAULT PRIVILEGES FOR ROLE rowcast_worker IN SCHEMA public GRANT SELECT ON TABLES TO rowcast_reader;
