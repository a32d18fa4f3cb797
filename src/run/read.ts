/** Reading runs: one, its result, a page of them. */
import { type Executor, isoColumn, query, type Row, textArray } from '../db/query.js'
import { RUN_STATUSES, type RunStatus } from '../db/schema.js'
import { decodeCursor, encodeCursor } from './cursor.js'
import { canBeRunId } from './ids.js'

export interface RunSummary {
	readonly runId: string
	readonly blueprint: string
	/** `metadata.version`, or the content hash of a blueprint without one. */
	readonly version: string
	readonly status: RunStatus
	readonly reason?: string
	readonly tags?: readonly string[]
	readonly parentRunId?: string
	readonly parentNodeId?: string
	readonly createdAt: string
	readonly updatedAt: string
	readonly finishedAt?: string
}

export interface RunError {
	readonly nodeId: string
	readonly message: string
	readonly attempt: number
	readonly name?: string
	readonly isFatal?: boolean
	readonly stack?: string
}

export interface AwaitingNode {
	readonly nodeId: string
	/** `timer`, `external_event`, `child`, or what the node gave. */
	readonly reason: string
	/** The event that ends the wait, beside a resume. */
	readonly eventName?: string
	readonly correlationKey?: string
	/** When a sleep ends, or a wait times out. */
	readonly wakeUpAt?: string
	readonly childRunId?: string
}

export interface Run extends RunSummary {
	readonly errors?: readonly RunError[]
	readonly awaiting?: readonly AwaitingNode[]
	/** Only of a run that has ended: the result's context, as JSON text of an object. */
	readonly contextJson?: string
}

const TERMINAL: ReadonlySet<RunStatus> = new Set(['completed', 'failed', 'cancelled'])

export const isTerminal = (status: RunStatus): boolean => TERMINAL.has(status)

const SUMMARY = `s.run_id as "runId", s.blueprint_id as blueprint, coalesce(s.blueprint_version, s.blueprint_hash) as version,
	s.status, s.reason, to_json(s.tags)::text as tags, s.parent_run_id as "parentRunId", s.parent_node_id as "parentNodeId",
	${isoColumn('s.created_at')} as "createdAt", ${isoColumn('s.updated_at')} as "updatedAt", ${isoColumn('s.finished_at')} as "finishedAt"`

/** Just the status, for whoever polls; undefined for an unknown run. */
export async function readStatus(db: Executor, runId: string): Promise<RunStatus | undefined> {
	if (!canBeRunId(runId)) return undefined
	const [row] = await query<{ status: RunStatus }>(
		db,
		'select status from flowcraft_statuses where run_id = $1::text',
		[runId],
	)
	return row?.status
}

/** A run with its errors, what it waits for, and its result once it has ended; undefined for an unknown run. */
export async function readRun(db: Executor, runId: string): Promise<Run | undefined> {
	if (!canBeRunId(runId)) return undefined
	const [row] = await query(
		db,
		// Errors, waits and the context in the same statement: one snapshot, one round trip.
		`select ${SUMMARY},
			(select json_agg(json_build_object('nodeId', n.node_id, 'attempt', n.attempt, 'error', n.error) order by n.finished_seq, n.node_id)
				from flowcraft_nodes n where n.run_id = s.run_id and n.state = 'failed' and s.failed_count > 0)::text as errors,
			(select json_agg(json_build_object('nodeId', n.node_id, 'state', n.state, 'wait', n.wait, 'childRunId', n.child_run_id,
					'dueAt', ${isoColumn('n.due_at')}) order by n.node_id)
				from flowcraft_nodes n where n.run_id = s.run_id and s.waiting_count > 0
					and (n.state = 'waiting' or (n.state = 'child' and n.child_status = 'awaiting')))::text as awaiting,
			case when s.finished_at is not null then
				(select coalesce('{' || string_agg(to_json(e.key)::text || ':' || e.value, ',' order by e.key) || '}', '{}')
					from flowcraft_context_entries(s.run_id) e)
			end as context
		from flowcraft_statuses s where s.run_id = $1::text`,
		[runId],
	)
	if (row === undefined) return undefined
	const errors = parseJson<{ nodeId: string; attempt: number; error: string | null }[]>(row['errors'])
	const awaiting = parseJson<
		{
			nodeId: string
			state: string
			wait: string | null
			childRunId: string | null
			dueAt: string | null
		}[]
	>(row['awaiting'])
	return {
		...summaryOf(row),
		...(errors === undefined
			? {}
			: {
					errors: errors.map(({ nodeId, attempt, error }) => ({
						message: 'Unknown error',
						...parseJson(error),
						nodeId,
						attempt,
					})),
				}),
		...(awaiting === undefined
			? {}
			: {
					awaiting: awaiting.map(({ nodeId, state, wait, childRunId, dueAt }) => {
						const { reason, eventName, correlationKey } =
							parseJson<Partial<AwaitingNode>>(wait) ?? {}
						return {
							nodeId,
							reason: state === 'child' ? 'child' : (reason ?? 'unknown'),
							...(eventName === undefined ? {} : { eventName }),
							...(correlationKey === undefined ? {} : { correlationKey }),
							...(dueAt === null ? {} : { wakeUpAt: dueAt }),
							...(childRunId === null ? {} : { childRunId }),
						}
					}),
				}),
		...(typeof row['context'] === 'string' ? { contextJson: row['context'] } : {}),
	}
}

export interface ListRunsInput {
	readonly status?: readonly RunStatus[]
	readonly blueprint?: string
	readonly tag?: string
	/** Only children of this run. */
	readonly parent?: string
	/** 1 to 200. Default 50. */
	readonly limit?: number
	/** `nextCursor` of the page before. */
	readonly cursor?: string
}

export interface RunPage {
	readonly runs: readonly RunSummary[]
	readonly nextCursor?: string
}

/**
 * A page of runs, newest first, children included. Pages are by keyset: runs that start meanwhile move nothing.
 * @throws InvalidInputError for a cursor that `listRuns` did not make
 */
export async function listRuns(db: Executor, input: ListRunsInput = {}): Promise<RunPage> {
	const limit = Math.min(Math.max(Math.trunc(input.limit ?? 50), 1), 200)
	const conditions: string[] = []
	const parameters: string[] = []
	const parameter = (value: string): string => `$${parameters.push(value)}`
	if (input.status !== undefined) conditions.push(statusCondition(input.status, parameter))
	if (input.blueprint !== undefined) conditions.push(`s.blueprint_id = ${parameter(input.blueprint)}::text`)
	// `tags <> '{}'` lets the planner use the partial index.
	if (input.tag !== undefined)
		conditions.push(`s.tags @> ${parameter(textArray([input.tag]))}::text::text[] and s.tags <> '{}'`)
	if (input.parent !== undefined) conditions.push(`s.parent_run_id = ${parameter(input.parent)}::text`)
	if (input.cursor !== undefined) {
		const [createdAt, runId] = decodeCursor(input.cursor, ['timestamp', 'text']).map(parameter)
		conditions.push(
			`(s.created_at, s.run_id) < (${createdAt}::text::timestamptz, ${runId}::text collate "C")`,
		)
	}
	const rows = await query(
		db,
		`select ${SUMMARY}, s.created_at::text as "keysetAt"
		from flowcraft_statuses s ${conditions.length > 0 ? `where ${conditions.join(' and ')}` : ''}
		order by s.created_at desc, s.run_id desc limit ${limit + 1}`,
		parameters,
	)
	const page = rows.slice(0, limit)
	const last = page[page.length - 1]
	return {
		runs: page.map(summaryOf),
		...(rows.length > limit && last !== undefined
			? { nextCursor: encodeCursor([String(last['keysetAt']), String(last['runId'])]) }
			: {}),
	}
}

function statusCondition(wanted: readonly RunStatus[], parameter: (value: string) => string): string {
	const list = `s.status = any(${parameter(textArray(wanted))}::text::text[])`
	// Live runs have an index of their own, however many have ended.
	return wanted.some(isTerminal) || wanted.length === 0 ? list : `${list} and s.finished_at is null`
}

/** Whether a text is a run's status. */
export const isRunStatus = (text: string): text is RunStatus =>
	(RUN_STATUSES as readonly string[]).includes(text)

function summaryOf(row: Row): RunSummary {
	const text = (name: string): string | undefined => (typeof row[name] === 'string' ? row[name] : undefined)
	const optional = <K extends string>(name: K): Partial<Record<K, string>> => {
		const value = text(name)
		return value === undefined ? {} : ({ [name]: value } as Record<K, string>)
	}
	const tags = parseJson<string[]>(row['tags']) ?? []
	return {
		runId: String(row['runId']),
		blueprint: String(row['blueprint']),
		version: String(row['version']),
		status: row['status'] as RunStatus,
		...optional('reason'),
		...(tags.length > 0 ? { tags } : {}),
		...optional('parentRunId'),
		...optional('parentNodeId'),
		createdAt: String(row['createdAt']),
		updatedAt: String(row['updatedAt']),
		...optional('finishedAt'),
	}
}

function parseJson<T>(text: unknown): T | undefined {
	return typeof text === 'string' ? (JSON.parse(text) as T) : undefined
}
