import { describe, expect, test } from 'vitest'
import { createDatabase } from '../../src/db/client.js'
import { query } from '../../src/db/query.js'
import { expectSchema } from '../../worker/db/expect-schema.js'
import { migrate } from '../../worker/db/migrate.js'
import { spawnProcess } from '../support/process.js'
import { freshDatabase } from '../support/services/index.js'

test('of many processes that migrate at once one does, and all of them find the schema', async () => {
	const fresh = await freshDatabase({ migrated: false })
	const database = createDatabase(fresh.url, { max: 1 })
	try {
		const outcomes = await Promise.allSettled(Array.from({ length: 12 }, () => migrate(fresh.url)))
		expect(outcomes.filter(({ status }) => status === 'rejected')).toEqual([])
		const [row] = await query<{ applied: number; functions: number }>(
			database.sql,
			`select (select count(*)::int from drizzle.flowcraft_migrations) as applied,
				(select count(*)::int from pg_proc where proname = 'flowcraft_commit') as functions`,
		)
		expect(row?.applied).toBeGreaterThan(1)
		expect(row?.functions).toBe(1)
		// And once more, with nothing left to do.
		await migrate(fresh.url)
	} finally {
		await database.close()
		await fresh.drop()
	}
})

/** Applies a statement to a database of its own and tells what becomes of it. */
async function withDatabase<T>(
	options: { readonly migrated: boolean; readonly change?: string },
	use: (url: string) => Promise<T>,
): Promise<T> {
	const fresh = await freshDatabase(options)
	try {
		if (options.change !== undefined) {
			const database = createDatabase(fresh.url, { max: 1 })
			await database.sql.unsafe(options.change)
			await database.close()
		}
		return await use(fresh.url)
	} finally {
		await fresh.drop()
	}
}

const OLDER = 'update drizzle.flowcraft_migrations set created_at = created_at - 1'

describe.each([
	['was never migrated', { migrated: false }, 'has no tables of flowcraft-outbox yet'],
	['is older than the program', { migrated: true, change: OLDER }, 'are older than this program'],
])('on a database that %s', (_how, options, says) => {
	test.each(['worker/relay.main.ts', 'worker/worker.main.ts'])(
		'%s says in one line what to do, and ends',
		async (entry) => {
			await withDatabase(options, async (url) => {
				const env = { DATABASE_URL: url, RABBITMQ_URL: 'amqp://127.0.0.1:1', LOG_LEVEL: 'error' }
				const started = await spawnProcess({ entry, env })
				expect(await started.exited).toEqual({ code: 1, signal: null })
				const said = started.lines.filter((line) => line !== '')
				expect(said).toEqual([expect.stringContaining(says)])
				expect(said[0]).toContain('npm run db:migrate')
			})
		},
	)
})

describe('where there is no such database', () => {
	const nowhere = async (): Promise<string> => {
		const fresh = await freshDatabase({ migrated: false })
		await fresh.drop()
		return fresh.url
	}

	test.each([
		'worker/relay.main.ts',
		'worker/worker.main.ts',
		'worker/all-in-one.ts',
		'worker/db/migrate.main.ts',
	])('%s names it in one line, says what to do, and ends', async (entry) => {
		const url = await nowhere()
		const started = await spawnProcess({
			entry,
			env: {
				DATABASE_URL: url,
				RABBITMQ_URL: 'amqp://127.0.0.1:1',
				REDIS_URL: 'redis://127.0.0.1:1',
				PORT: '0',
				LOG_LEVEL: 'silent',
			},
		})
		expect(await started.exited).toEqual({ code: 1, signal: null })
		const said = started.lines.filter((line) => line !== '')
		expect(said).toEqual([expect.stringContaining('Postgres does not have the database')])
		expect(said[0]).toContain(new URL(url).pathname.slice(1))
		expect(said[0]).toContain('createdb')
	})

	test('functions say so when they start, and do not send anybody to migrate it', async () => {
		const server = await spawnProcess({
			entry: 'functions/node.ts',
			env: { DATABASE_URL: await nowhere(), PORT: '0' },
			readyLine: '"Listening"',
		})
		await server.waitForLine(/"level":50.*Postgres does not have the database.*createdb/)
		const { url } = JSON.parse(server.lines.find((line) => line.includes('"Listening"')) ?? '') as {
			url: string
		}
		const answer = await fetch(`${url}/runs`)
		expect(answer.status).toBe(503)
		const { detail } = (await answer.json()) as { detail: string }
		expect(detail).toContain('does not exist')
		expect(detail).not.toContain('migrate')
		await server.stop()
	})
})

test('the migration says how much it has applied, or that there was nothing to do', async () => {
	await withDatabase({ migrated: false }, async (url) => {
		const said = async (): Promise<string> => {
			const running = await spawnProcess({
				entry: 'worker/db/migrate.main.ts',
				env: { DATABASE_URL: url },
			})
			await running.exited
			return running.lines.join('\n')
		}
		expect(await said()).toMatch(/^Applied [1-9]\d* migrations?: /)
		expect(await said()).toMatch(/^Nothing to do: /)
	})
})

test('a newer schema is in order: it comes before the programs; so is one that was installed by other means', async () => {
	const newer = `insert into drizzle.flowcraft_migrations (hash, created_at) values ('next', 9e15)`
	await expect(withDatabase({ migrated: true, change: newer }, expectSchema)).resolves.toBeUndefined()
	const installed = withDatabase({ migrated: true, change: 'drop schema drizzle cascade' }, expectSchema)
	await expect(installed).resolves.toBeUndefined()
})

test('functions on a database that was never migrated say so when they start, and with each request', async () => {
	await withDatabase({ migrated: false }, async (url) => {
		const server = await spawnProcess({
			entry: 'functions/node.ts',
			env: { DATABASE_URL: url, PORT: '0', LOG_LEVEL: 'error' },
			readyLine: 'has no tables of flowcraft-outbox yet: run npm run db:migrate',
		})
		await server.stop()
	})
	await withDatabase({ migrated: true, change: 'drop table flowcraft_statuses cascade' }, async (url) => {
		const server = await spawnProcess({
			entry: 'functions/node.ts',
			env: { DATABASE_URL: url, PORT: '0' },
			readyLine: '"Listening"',
		})
		const { url: at } = JSON.parse(server.lines.find((line) => line.includes('"Listening"')) ?? '') as {
			url: string
		}
		expect((await fetch(`${at}/runs`)).status).toBe(503)
		const line = await server.waitForLine('lacks what this program needs: run npm run db:migrate')
		expect(JSON.parse(line)).toMatchObject({ level: 50, path: '/runs', missing: expect.any(String) })
		expect(line).not.toContain('stack')
		await server.stop()
	})
})
