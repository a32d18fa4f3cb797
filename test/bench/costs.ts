/**
 * What work costs, as counters before and after it: WAL bytes and statements of Postgres, messages, CPU time of each
 * program.
 *
 * Statements are counted by pg_stat_statements, at once and exactly. Where Postgres does not have it, transactions stand in:
 * each of our statements is one. Backends report those late, so that of short work some are missing.
 */
import { readFile, readdir } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { asAdmin, withDatabase } from '../support/services/suite.js'
import { metricsOf } from './metrics.js'

export interface Counters {
	/** Of the whole server. */
	readonly walBytes: number
	/** Of one database, from clients; those inside functions are not counted. */
	readonly statements: number
	readonly messages: number
	/** Seconds of CPU time by program. */
	readonly cpu: Readonly<Record<string, number>>
}

export interface Watched {
	readonly databaseUrl: string
	/** Of our own processes: who publishes counts it. */
	readonly metricsPorts: readonly number[]
	/** By program; children count with their parents. */
	readonly pids: Readonly<Record<string, readonly number[]>>
}

/** Backends report their transactions once a second at most. */
const STATISTICS_DELAY_MS = 1_500

export async function readCounters(watched: Watched): Promise<Counters> {
	const cpu: Record<string, number> = {}
	for (const [program, pids] of Object.entries(watched.pids)) {
		let seconds = 0
		for (const pid of pids) seconds += await cpuSeconds(pid)
		cpu[program] = seconds
	}
	let messages = 0
	for (const port of watched.metricsPorts)
		for (const [name, value] of await metricsOf(port))
			if (/^flowcraft_.*published.*_total$/.test(name)) messages += value
	return { ...(await readPostgres(watched.databaseUrl)), messages, cpu }
}

async function readPostgres(url: string): Promise<Pick<Counters, 'walBytes' | 'statements'>> {
	const database = new URL(url).pathname.slice(1)
	// From the server's own database: what is asked here must not be counted.
	return asAdmin(withDatabase(url, 'postgres'), async (sql) => {
		const [row] = await sql<{ wal: string; exact: boolean }[]>`
			select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::text as wal,
				exists (select from pg_extension where extname = 'pg_stat_statements') as exact`
		if (row?.exact !== true) await delay(STATISTICS_DELAY_MS)
		const [counted] =
			row?.exact === true
				? await sql<{ statements: string }[]>`
					select coalesce(sum(calls), 0)::text as statements
					from pg_stat_statements join pg_database d on d.oid = dbid where toplevel and datname = ${database}`
				: await sql<{ statements: string }[]>`
					select xact_commit::text as statements from pg_stat_database where datname = ${database}`
		return { walBytes: Number(row?.wal), statements: Number(counted?.statements) }
	})
}

export interface CostPerNode {
	readonly walBytes: number
	readonly statements: number
	readonly messages: number
	/** Milliseconds of CPU time by program. */
	readonly cpuMs: Readonly<Record<string, number>>
}

export function costPerNode(before: Counters, after: Counters, nodes: number): CostPerNode {
	return {
		walBytes: (after.walBytes - before.walBytes) / nodes,
		statements: (after.statements - before.statements) / nodes,
		messages: (after.messages - before.messages) / nodes,
		cpuMs: Object.fromEntries(
			Object.entries(after.cpu).map(([program, seconds]) => [
				program,
				((seconds - (before.cpu[program] ?? 0)) * 1000) / nodes,
			]),
		),
	}
}

/** USER_HZ: what the kernel counts in, on every Linux that people run. */
const TICKS_PER_SECOND = 100

/** CPU time of a process, of its living children, and of those that have ended. 0 where there is no /proc. */
async function cpuSeconds(pid: number): Promise<number> {
	const entries = await readdir('/proc').catch(() => [])
	const all = await Promise.all(
		entries.filter((entry) => /^\d+$/.test(entry)).map((entry) => readProcess(Number(entry))),
	)
	const ours = all.filter((each) => each !== undefined && (each.pid === pid || each.parent === pid))
	return ours.reduce((sum, each) => sum + (each?.ticks ?? 0), 0) / TICKS_PER_SECOND
}

interface ProcessTimes {
	readonly pid: number
	readonly parent: number
	readonly ticks: number
}

async function readProcess(pid: number): Promise<ProcessTimes | undefined> {
	const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
	if (text === undefined) return undefined
	// The name, in brackets, may contain anything. After it: state, parent, … and from the twelfth on utime, stime, and
	// those of children that have been waited for.
	const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
	const ticks = [11, 12, 13, 14].reduce((sum, position) => sum + Number(fields[position] ?? 0), 0)
	return { pid, parent: Number(fields[1]), ticks }
}
