import { type ChannelModel, connect, type ConfirmChannel } from 'amqplib'
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type PrivateServer, startPostgres, startRabbitMq, startRedis } from '../support/services/index.js'
import { waitFor } from '../support/wait-for.js'

describe('a private Postgres', () => {
	let server: PrivateServer
	beforeAll(async () => {
		server = await startPostgres()
	})
	afterAll(() => server.remove())

	const rows = async (): Promise<number> => {
		const sql = postgres(server.url, { max: 1, onnotice: () => {} })
		try {
			await sql`create table if not exists kept (n int)`
			const [row] = await sql<
				{ n: number }[]
			>`with added as (insert into kept values (1)) select count(*)::int as n from kept`
			return row?.n ?? -1
		} finally {
			await sql.end()
		}
	}

	test('keeps committed rows over kill -9 and restart, on the same port', async () => {
		expect(await rows()).toBe(0)
		const { pid, port } = server
		await server.kill('SIGKILL')
		expect(server.pid).toBe(0)
		await expect(rows()).rejects.toThrow('ECONNREFUSED')

		await server.restart()
		expect(server.pid).not.toBe(pid)
		expect(server.port).toBe(port)
		expect(await rows()).toBe(1)
	})

	test('keeps committed rows over an orderly stop', async () => {
		const before = await rows()
		await server.stop()
		await server.restart()
		expect(await rows()).toBe(before + 1)
	})

	test('really syncs to disk', async () => {
		const sql = postgres(server.url, { max: 1 })
		const [settings] =
			await sql`select current_setting('fsync') as fsync, current_setting('synchronous_commit') as "synchronousCommit"`
		await sql.end()
		expect(settings).toEqual({ fsync: 'on', synchronousCommit: 'on' })
	})
})

describe('a private Redis', () => {
	let server: PrivateServer
	let client: Redis
	beforeAll(async () => {
		server = await startRedis()
		client = new Redis(server.url)
		client.on('error', () => {})
	})
	afterAll(async () => {
		client.disconnect()
		await server.remove()
	})

	test('keeps what was written over an orderly restart and loses it to kill -9', async () => {
		await client.set('key', 'saved')
		await server.restart()
		expect(await client.get('key')).toBe('saved')

		await client.set('key', 'not saved')
		await server.kill()
		await server.restart()
		expect(await client.get('key')).toBe('saved')
	})

	test('is silent while it is stopped with SIGSTOP and answers after SIGCONT', async () => {
		await server.kill('SIGSTOP')
		const pong = client.ping()
		expect(await Promise.race([pong, delay(200, 'silence')])).toBe('silence')
		await server.kill('SIGCONT')
		expect(await pong).toBe('PONG')
	})
})

describe('a private RabbitMQ', () => {
	let server: PrivateServer
	let connection: ChannelModel | undefined
	let channel: ConfirmChannel
	const queue = 'kept'
	const open = async (): Promise<void> => {
		connection = await connect(server.url)
		connection.on('error', () => {})
		channel = await connection.createConfirmChannel()
		channel.on('error', () => {})
	}
	beforeAll(async () => {
		server = await startRabbitMq()
	})
	afterAll(() => server.remove())

	test('keeps confirmed messages over kill -9 and restart', { timeout: 120_000 }, async () => {
		await open()
		const declaredAt = Date.now()
		await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } })
		channel.sendToQueue(queue, Buffer.from('confirmed'), { persistent: true })
		await channel.waitForConfirms()
		// Earlier, a kill may leave a new quorum queue unusable (see startRabbitMq): age is the condition here.
		await waitFor('the queue to be old enough', () => Date.now() - declaredAt > 5_000)

		const { pid } = server
		await server.kill('SIGKILL')
		await expect(connect(server.url)).rejects.toThrow('ECONNREFUSED')
		await server.restart()
		expect(server.pid).not.toBe(pid)

		// For a moment after the boot the queue has no leader.
		const message = await waitFor('the message', async () => {
			await open()
			return channel.get(queue, { noAck: true })
		})
		expect(message.content.toString()).toBe('confirmed')
		await connection?.close()
	})
})
