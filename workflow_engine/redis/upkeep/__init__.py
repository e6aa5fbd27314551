"""What the periodic work of the whole fleet asks of Redis.

- `periodic_lease`: work that one worker of the fleet does at a time
- `data_age`: for how long Redis has kept its data
"""
