"""Let JupyterHub create its database, and change users, groups, servers, tokens and OAuth clients."""

import datetime
import sys

from jupyterhub import orm, roles
from jupyterhub.app import JupyterHub

hub = JupyterHub(db_url=sys.argv[1])
hub.log_level = "ERROR"
hub.init_db()
db = hub.db
for role in roles.get_default_roles():
    roles.create_role(db, role)
users = [orm.User(name=f"user{number}") for number in range(5)]
db.add_all(users)
team = orm.Group(name="team", properties={"a": 1})
team.users = users[:3]
db.add(team)
db.commit()
for user in users:
    roles.assign_default_roles(db, user)
for user in users[:3]:
    server = orm.Server(base_url=f"/user/{user.name}", port=1234)
    spawner = orm.Spawner(name="", server=server, user=user, state={"pid": 7})
    db.add_all([server, spawner])
    db.commit()
    spawner.last_activity = datetime.datetime(2026, 1, 2, 3, 4, 5)
    user.new_api_token(note="ä😀", expires_in=60)
client = orm.OAuthClient(identifier="c", secret="x", redirect_uri="/cb", description="d")
db.add(client)
db.commit()
db.add(orm.OAuthCode(client=client, code="c", user=users[0], redirect_uri="/cb", session_id="s"))
db.commit()
db.delete(client)
team.users = users[2:]
db.commit()
db.delete(users[0])
users[1].name, users[1].admin = "renamed", True
db.commit()
orm.APIToken.purge_expired(db)
db.delete(team)
db.commit()
assert db.query(orm.User).count() == 4
db.close()
