import { expect, test } from 'vitest'
import { createDatabase } from '../../src/db/client.js'
import { query } from '../../src/db/query.js'
import { migrate } from '../../worker/db/migrate.js'
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
