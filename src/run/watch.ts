/**
 * Watching a run live: what happens to it and its nodes as numbered events, and what its nodes emit. The numbers are the
 * same for everybody and for ever (`src/db/sql/69_stream.sql`), so whoever comes back goes on where it was. By polling, on
 * Postgres alone: a look costs the same however large the run is, and holds no connection until the next one.
 */
import { classifyDatabaseError } from '../db/errors.js'
import { type Executor, isoColumn, query, type Row } from '../db/query.js'
import type { RunStatus } from '../db/schema.js'
import { InvalidInputError, NotFoundError } from '../errors.js'
import { showGeneration } from '../plan/generation.js'
import { canBeRunId } from './ids.js'
import { isTerminal } from './read.js'
import { type RunEvent, runEvent } from './run-events.js'

/**
 * An event with its number. Besides Flowcraft's events there is `node:emit`: what a node has emitted while it ran, with
 * `attempt`, `crashes` (how often a worker had died with it before), and `seq`, which counts from 1 within this execution
 * of the node. Its last one has `truncated: true` if the node has emitted more than is kept.
 */
export interface WatchedEvent extends Omit<RunEvent, 'type'> {
	/** To go on after this event: `12`, or `12.3` within what was emitted together. */
	readonly id: string
	readonly type: RunEvent['type'] | 'node:emit'
	/** Of `node:emit`: the data, JSON text as the serializer wrote it. */
	readonly dataJson?: string
}

export interface WatchOptions {
	/** `id` of the last event that was seen. Default: from the run's beginning. */
	readonly after?: string | undefined
	/** Give up after so long, in ms. Default: when the run has ended. */
	readonly timeoutMs?: number
	/** An empty batch comes after so long without events, in ms. Default 15000. */
	readonly heartbeatMs?: number
	/** Pause between looks, in ms: begins at the first after an event, and grows to the second. Default 50 and 500. */
	readonly minPollMs?: number
	readonly maxPollMs?: number
	readonly signal?: AbortSignal
	/** Calls back when something may have happened, to look earlier (a doorbell). Returns how to stop listening. */
	readonly onHint?: (look: () => void) => () => void
}

/** What has happened since the batch before; nothing, if it only says that somebody is still watching. */
export interface WatchBatch {
	readonly events: readonly WatchedEvent[]
	readonly status: RunStatus
	/** The run has ended, and these were its last events. */
	readonly ended: boolean
}

/** Events read at once. */
const BATCH = 200
/** Pause before Postgres is asked again that could not be reached, in ms. */
const UNAVAILABLE_PAUSE_MS = 1_000

/**
 * Yields events in batches as they happen; the first batch, which may be empty, at once. Ends after the run's end, with
 * the time or with the signal. While Postgres is away it waits, except for the first look.
 *
 * @throws NotFoundError; InvalidInputError for an `after` that is no event of this run; at the first look, what the driver throws
 */
export async function* watchRun(
	db: Executor,
	runId: string,
	options: WatchOptions = {},
): AsyncGenerator<WatchBatch, void, undefined> {
	const { heartbeatMs = 15_000, minPollMs = 50, maxPollMs = 500, signal } = options
	const aborted = (): boolean => signal?.aborted === true
	const deadline = performance.now() + (options.timeoutMs ?? Infinity)
	let position = readPosition(options.after)
	let look = canBeRunId(runId) ? await lookAfter(db, runId, position) : undefined
	if (look === undefined) throw new NotFoundError(`There is no run '${runId}'.`)
	if (position.seq > look.lastSeq) throw unknownEvent()

	let hinted = false
	let wake: (() => void) | undefined
	const stopListening = options.onHint?.(() => {
		hinted = true
		wake?.()
	})
	const pause = (ms: number): Promise<void> =>
		new Promise((resolve) => {
			const end = (): void => {
				clearTimeout(timer)
				signal?.removeEventListener('abort', end)
				wake = undefined
				resolve()
			}
			const timer = setTimeout(end, ms)
			wake = end
			signal?.addEventListener('abort', end, { once: true })
		})

	try {
		let pollMs = minPollMs
		let quietSince = performance.now()
		let first = true
		for (;;) {
			const { events, status, more } = look
			position = look.position
			const ended = !more && isTerminal(status)
			const now = performance.now()
			if (events.length > 0 || first || ended || now - quietSince >= heartbeatMs) {
				first = false
				quietSince = now
				yield { events, status, ended }
			}
			const remainingMs = deadline - performance.now()
			if (ended || aborted() || remainingMs <= 0) return
			pollMs = events.length > 0 ? minPollMs : Math.min(pollMs * 1.5, maxPollMs)
			if (!more && !hinted) {
				const heartbeatInMs = quietSince + heartbeatMs - performance.now()
				await pause(Math.max(Math.min(pollMs, remainingMs, heartbeatInMs), 0))
			}
			hinted = false
			if (aborted()) return
			const next = await lookAgain(db, runId, position)
			// Deleted meanwhile.
			if (next === undefined) return
			look = next
			if (look.unavailable === true) await pause(Math.min(UNAVAILABLE_PAUSE_MS, remainingMs))
		}
	} finally {
		stopListening?.()
	}
}

/** Everything up to number `seq`, and of what was emitted together under the next number the first `part`. */
interface Position {
	readonly seq: number
	readonly part: number
}

interface Look {
	readonly events: WatchedEvent[]
	readonly status: RunStatus
	readonly lastSeq: number
	/** After these events. */
	readonly position: Position
	/** There may be more at once. */
	readonly more: boolean
	readonly unavailable?: true
}

const unknownEvent = (): InvalidInputError =>
	new InvalidInputError('There is no such event', [{ path: '/after', message: 'is no event of this run' }])

function readPosition(id: string | undefined): Position {
	if (id === undefined) return { seq: 0, part: 0 }
	const [, seq, part] = /^(\d{1,15})(?:\.(\d{1,9}))?$/.exec(id) ?? []
	if (seq === undefined) throw unknownEvent()
	return part === undefined ? { seq: Number(seq), part: 0 } : { seq: Number(seq) - 1, part: Number(part) }
}

/** The next look. One that Postgres could not be reached for has found nothing. */
async function lookAgain(db: Executor, runId: string, position: Position): Promise<Look | undefined> {
	try {
		return await lookAfter(db, runId, position)
	} catch (error) {
		if (classifyDatabaseError(error) !== 'unavailable') throw error
		return { events: [], status: 'running', lastSeq: 0, position, more: false, unavailable: true }
	}
}

async function lookAfter(db: Executor, runId: string, position: Position): Promise<Look | undefined> {
	const rows = await query(
		db,
		`select f.status, f.blueprint_id as "blueprintId", f.last_seq::text as "lastSeq", f.seq::text as seq, f.what, f.node,
			f.generation, f.recovers, f.attempt, ${isoColumn('f.at')} as "shownAt", f.detail as "detailJson"
		from flowcraft_follow_run($1::text, $2::bigint, $3::int) f`,
		[runId, position.seq, BATCH],
	)
	const [first] = rows
	if (first === undefined) return undefined
	const events: WatchedEvent[] = []
	let { seq, part } = position
	for (const row of rows) {
		if (row['seq'] === null) break
		const told = Number(row['seq']) === seq + 1 ? part : 0
		seq = Number(row['seq'])
		part = 0
		events.push(...(row['what'] === 'emit' ? emittedEvents(runId, row, told) : [numbered(runId, row)]))
	}
	return {
		events,
		status: first['status'] as RunStatus,
		lastSeq: Number(first['lastSeq']),
		position: { seq, part },
		more: rows.length >= BATCH,
	}
}

const numbered = (runId: string, row: Row): WatchedEvent => ({
	id: String(row['seq']),
	...runEvent(runId, row),
})

interface Emitted {
	readonly crashes: number
	readonly first: number
	/** JSON texts; null stands for all that was too much. */
	readonly data: readonly (string | null)[]
}

/** What was emitted together, without the first `told` ones. */
function emittedEvents(runId: string, row: Row, told: number): WatchedEvent[] {
	const { crashes, first, data } = JSON.parse(String(row['detailJson'])) as Emitted
	const attempt = Number(row['attempt'])
	return data
		.map((dataJson, at): WatchedEvent => ({
			id: at === data.length - 1 ? String(row['seq']) : `${String(row['seq'])}.${at + 1}`,
			type: 'node:emit',
			payload: {
				nodeId: String(row['node']),
				attempt,
				crashes,
				seq: first + at,
				...(dataJson === null ? { truncated: true } : {}),
				blueprintId: String(row['blueprintId']),
				executionId: runId,
			},
			at: String(row['shownAt']),
			generation: showGeneration(String(row['generation'])),
			attempt,
			...(dataJson === null ? {} : { dataJson }),
		}))
		.slice(told)
}
