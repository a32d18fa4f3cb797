import { connectForTest } from '../broker/rabbitmq-admin.js'
import { Redis } from 'ioredis'
import postgres from 'postgres'
import { expect, test } from 'vitest'
import { freshDatabase, freshQueueName, rabbitMq, redis } from '../support/services/index.js'

test('gives every test file an empty database of its own that has our tables', async () => {
	const [one, other] = await Promise.all([freshDatabase(), freshDatabase()])
	const [sqlOne, sqlOther] = [postgres(one.url, { onnotice: () => {} }), postgres(other.url)]
	await sqlOne`create table only_here (n int)`
	const [tables] = await sqlOther<{ ours: number; theirs: boolean }[]>`
		select (select count(*)::int from pg_tables where schemaname = 'public') as ours,
			to_regclass('only_here') is not null as theirs`
	await Promise.all([sqlOne.end(), sqlOther.end()])
	await Promise.all([one.drop(), other.drop()])

	expect(tables?.ours).toBeGreaterThan(0)
	expect(tables?.theirs).toBe(false)
})

test('gives a database without our tables to who asks for one', async () => {
	const database = await freshDatabase({ migrated: false })
	const sql = postgres(database.url)
	const tables =
		await sql`select from pg_tables where schemaname not in ('pg_catalog', 'information_schema')`
	await sql.end()
	await database.drop()

	expect(tables).toHaveLength(0)
})

test('drops a database under live connections', async () => {
	const database = await freshDatabase()
	const sql = postgres(database.url, { connect_timeout: 2 })
	await sql`select 1`
	await database.drop()

	await expect(sql`select 1`).rejects.toThrow(/does not exist|terminating connection/)
	await sql.end()
})

test('shares one RabbitMQ that confirms messages to quorum queues', async () => {
	const { url } = await rabbitMq()
	const connection = await connectForTest(url)
	const channel = await connection.createConfirmChannel()
	const queue = freshQueueName()
	await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } })
	channel.sendToQueue(queue, Buffer.from('hello'), { persistent: true })
	await channel.waitForConfirms()
	const message = await channel.get(queue, { noAck: true })
	await channel.deleteQueue(queue)
	await connection.close()

	expect(message !== false && message.content.toString()).toBe('hello')
	expect((await rabbitMq()).url).toBe(url)
})

test('shares one Redis', async () => {
	const { url } = await redis()
	const client = new Redis(url)
	const key = freshQueueName()
	await client.set(key, 'here')
	const value = await client.get(key)
	await client.del(key)
	client.disconnect()

	expect(value).toBe('here')
})
