/**
 * Where the time goes: `npm run bench -- --profile --only chain`.
 *
 * In `.bench-profile/`:
 * - `relay/` and `worker/` have a `.cpuprofile` for each thread, for Chrome's developer tools or VS Code. `functions.txt`
 *   has those that took most time themselves, by process; time in `(program)` is native, `(idle)` is none.
 * - `statements.txt` has what pg_stat_statements counted, nested statements of our functions included: calls, time, rows,
 *   pages and WAL bytes. `toplevel` tells the functions from what they are made of, so do not add the two up.
 * - `postgres.log` has the plan of each statement that took 5 ms or more (auto_explain, log_nested_statements), again inside
 *   functions too: below `Query Text:` stands the statement, in `CONTEXT:` the function and its line. Look for a `Seq Scan`, for
 *   `rows=` estimates far from the actual ones, and for `Buffers: shared hit=` that grows while the work does not. Plans of
 *   functions are generic (`plan_cache_mode`), so what stands there is what always runs.
 *
 * Profiles, plans and counters slow everything down by a fifth or so: for what is slow, not for how fast it is.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { chmod, mkdir, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { asAdmin } from '../support/services/suite.js'
import { formatNumber, table } from './table.js'

/** An empty folder. Postgres, which is another user, writes its log there. */
export async function prepareProfileFolder(): Promise<string> {
	const folder = resolve('.bench-profile')
	await rm(folder, { recursive: true, force: true })
	for (const each of [folder, join(folder, 'relay'), join(folder, 'worker')]) await mkdir(each)
	await chmod(folder, 0o777)
	return folder
}

const SHOWN = 40

export async function summarizeProfile(folder: string, postgresUrl: string): Promise<void> {
	const rows = await asAdmin(postgresUrl, (sql) =>
		sql.unsafe<Record<string, string>[]>(`
			select toplevel::text, calls::text, round(total_exec_time)::text as ms, round(mean_exec_time::numeric, 3)::text as mean_ms,
				rows::text, (shared_blks_hit + shared_blks_read)::text as pages, wal_bytes::text as wal,
				left(regexp_replace(query, '\\s+', ' ', 'g'), 140) as query
			from pg_stat_statements order by total_exec_time desc limit ${SHOWN}`),
	)
	const columns = ['query', 'toplevel', 'calls', 'ms', 'mean_ms', 'rows', 'pages', 'wal']
	writeFileSync(
		join(folder, 'statements.txt'),
		`${table(
			columns,
			rows.map((row) => columns.map((column) => row[column] ?? '')),
		)}\n`,
	)
	const parts = ['relay', 'worker'].flatMap((process) =>
		readdirSync(join(folder, process))
			.filter((file) => file.endsWith('.cpuprofile'))
			.map((file) => {
				const profile = JSON.parse(readFileSync(join(folder, process, file), 'utf8')) as CpuProfile
				return `${process}/${file}\n${table(
					['function', 'ms', '%'],
					busiest(profile)
						.slice(0, SHOWN)
						.map(({ name, ms, share }) => [name, formatNumber(ms), formatNumber(share * 100)]),
				)}`
			}),
	)
	writeFileSync(join(folder, 'functions.txt'), `${parts.join('\n\n')}\n`)
}

interface CpuProfile {
	readonly nodes: readonly {
		readonly id: number
		readonly callFrame: {
			readonly functionName: string
			readonly url: string
			readonly lineNumber: number
		}
	}[]
	readonly samples: readonly number[]
	/** Microseconds before each sample. */
	readonly timeDeltas: readonly number[]
}

/** Functions by the time that they took themselves, not in what they called. */
function busiest({ nodes, samples, timeDeltas }: CpuProfile): { name: string; ms: number; share: number }[] {
	const names = new Map(
		nodes.map(({ id, callFrame: { functionName, url, lineNumber } }) => [
			id,
			`${functionName || '(anonymous)'} ${url.replace(/^.*\/(?=(node_modules|src|worker|test)\/)/, '')}${url === '' ? '' : `:${lineNumber + 1}`}`,
		]),
	)
	const times = new Map<string, number>()
	let total = 0
	samples.forEach((id, position) => {
		const micros = timeDeltas[position] ?? 0
		const name = names.get(id) ?? '?'
		times.set(name, (times.get(name) ?? 0) + micros)
		total += micros
	})
	return [...times]
		.map(([name, micros]) => ({ name, ms: micros / 1_000, share: micros / total }))
		.toSorted((a, b) => b.ms - a.ms)
}
