import type { Sql } from 'postgres'
import { waitFor } from './wait-for.js'

/** Resolves when some session waits for a lock that the session `pid` holds. */
export async function whenBlocked(sql: Sql, pid: number): Promise<void> {
	await waitFor(`a session that waits for ${pid}`, async () => {
		const rows = await sql`select from pg_stat_activity where ${pid} = any(pg_blocking_pids(pid))`
		return rows.length > 0
	})
}
