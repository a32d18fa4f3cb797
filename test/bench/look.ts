/** Looks at how many runs are live, many times a second: by an index, since the runs that have ended are ever more. */
import { createDatabase } from '../../src/db/client.js'
import { query } from '../../src/db/query.js'

export interface Look {
	live(): Promise<number>
	close(): Promise<void>
}

/**
 * On a connection of its own, which prefers an index however small Postgres takes the table for.
 * @param from a table and its condition, for which there is an index
 */
export async function openLook(databaseUrl: string, from: string): Promise<Look> {
	const database = createDatabase(databaseUrl, { max: 1, applicationName: 'bench' })
	await query(database.sql, 'set enable_seqscan = off')
	return {
		async live() {
			const [row] = await query<{ live: number }>(
				database.sql,
				`select count(*)::int as live from ${from}`,
			)
			return row?.live ?? 0
		},
		close: () => database.close(),
	}
}
