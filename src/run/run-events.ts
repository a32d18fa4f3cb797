/**
 * What happened to a run, as Flowcraft's events: put together when it is read, from what stands with the run, its nodes
 * and their attempts. Nothing is written for it while the run goes on.
 *
 * Two differences from what an event bus hears: `node:finish` tells the action, not the output, which stands in the
 * run's context; and `edge:evaluate` is there for edges that were taken, and of those that were not, for edges into
 * joins of all their predecessors.
 */
import type { FlowcraftEvent } from 'flowcraft'
import { type Executor, query, type Row } from '../db/query.js'
import type { RunStatus } from '../db/schema.js'
import { NotFoundError } from '../errors.js'
import { showGeneration } from '../plan/generation.js'
import { recoveredBy } from '../plan/node-key.js'
import { decodeCursor, encodeCursor } from './cursor.js'
import { WAS_CLAIMED } from './node-history.js'
import { isTerminal, readStatus } from './read.js'

/** One of Flowcraft's events; as JSON, so that an error is an object. */
export interface RunEvent {
	readonly type: FlowcraftEvent['type']
	readonly payload: Readonly<Record<string, unknown>>
	readonly at: string
	/** Of a node's events: in which turn of the loops around it, as in the history of nodes. */
	readonly generation?: string
	/** Of a node's events: which attempt, from 1. */
	readonly attempt?: number
}

export interface RunEventsInput {
	/** 1 to 2000. Default 500. */
	readonly limit?: number
	/** `nextCursor` of the page before. */
	readonly cursor?: string
}

export interface EventPage {
	readonly events: readonly RunEvent[]
	readonly nextCursor?: string
}

/**
 * `rank` puts what happened in one write into the order of cause and effect. Columns: what it is, which node (or the
 * source of an edge), `detail` for the rest.
 */
const EVENTS = `with run as (
		select s.run_id, s.blueprint_id, s.blueprint_hash from flowcraft_statuses s where s.run_id = $1::text
	), edges as materialized (
		select (edge.position - 1)::int as index, edge.value ->> 'source' as source, edge.value ->> 'target' as target,
			edge.value ->> 'condition' as condition
		from run join flowcraft_blueprints b on b.blueprint_id = run.blueprint_id and b.hash = run.blueprint_hash
		cross join lateral json_array_elements(b.definition::json -> 'edges') with ordinality as edge(value, position)
	), pairs as materialized (
		select e.source, e.target, max(e.condition) as condition from edges e group by e.source, e.target
	), events as (
		select t.recorded_at as at, case when lag(t.status) over runs is null then 0 else 8 end as rank,
			'run' as what, '' as node, '' as generation, '' as recovers, null::int as attempt, t.id as serial,
			json_build_object('status', t.status, 'before', lag(t.status) over runs) as detail
		from flowcraft_transitions t where t.run_id = $1::text
		window runs as (order by t.recorded_at, t.id)
		union all
		select n.claimed_at, 4, 'start', n.node_id, n.generation, n.recovers, n.attempt, 0, null
		from flowcraft_nodes n where n.run_id = $1::text and n.claimed_at is not null and ${WAS_CLAIMED}
		union all
		select n.finished_at, 5, case when n.state = 'completed' then 'finish' else 'error' end, n.node_id, n.generation, n.recovers,
			n.attempt, 0, json_build_object('action', n.action, 'error', n.error)
		from flowcraft_nodes n
		-- Only what ended by itself has a number among the commits.
		where n.run_id = $1::text and n.finished_at is not null and n.finished_seq is not null
		union all
		select a.claimed_at, 4, 'start', a.node_id, a.generation, a.recovers, a.attempt, a.id, null
		from flowcraft_attempts a where a.run_id = $1::text and a.claimed_at is not null
		union all
		select a.recorded_at, 5, 'retry', a.node_id, a.generation, a.recovers, a.attempt, a.id,
			json_build_object('outcome', a.outcome, 'error', a.error)
		from flowcraft_attempts a where a.run_id = $1::text
		union all
		select n.created_at, 6, 'fallback', n.node_id, n.generation, n.recovers, null, 0, null
		from flowcraft_nodes n where n.run_id = $1::text and n.recovers <> ''
		union all
		select n.created_at, 7, 'edge', e.source, n.generation, '', null, e.index,
			json_build_object('target', e.target, 'condition', e.condition, 'result', true)
		from flowcraft_nodes n join edges e on e.index = n.input_edge
		where n.run_id = $1::text and n.expected is null
		union all
		-- An arrival has no time of its own: its source's end, but not after the join began.
		select least(coalesce(source.finished_at, n.created_at), coalesce(n.claimed_at, source.finished_at, n.created_at)), 7, 'edge', a.source,
			a.generation, '', null, -1, json_build_object('target', a.node_id, 'condition', p.condition, 'result', a.taken = 1)
		from flowcraft_arrivals a
		join pairs p on p.source = a.source and p.target = a.node_id
		join flowcraft_nodes n on n.run_id = a.run_id and n.node_id = a.node_id and n.generation = a.generation and n.recovers = ''
		left join flowcraft_nodes source
			on source.run_id = a.run_id and source.node_id = a.source and source.generation = a.generation and source.recovers = ''
		where a.run_id = $1::text
	), keyed as (
		select e.*, json_build_array(e.what, e.node, e.generation, e.recovers, e.detail ->> 'target', e.serial)::text collate "C" as key
		from events e
	)
	select k.*, k.at::text as "keysetAt", to_char(k.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as "shownAt",
		k.detail::text as "detailJson", run.blueprint_id as "blueprintId"
	from keyed k cross join run`

/**
 * A page of a run's events, in the order of time.
 * @throws NotFoundError; InvalidInputError for a cursor that this function did not make
 */
export async function listRunEvents(
	db: Executor,
	runId: string,
	input: RunEventsInput = {},
): Promise<EventPage> {
	const limit = Math.min(Math.max(Math.trunc(input.limit ?? 500), 1), 2000)
	const after =
		input.cursor === undefined ? [] : decodeCursor(input.cursor, ['timestamp', 'integer', 'text'])
	const rows = await query(
		db,
		`${EVENTS} ${after.length === 0 ? '' : 'where (k.at, k.rank, k.key) > ($2::text::timestamptz, $3::text::int, $4::text collate "C")'}
		order by k.at, k.rank, k.key limit ${limit + 1}`,
		[runId, ...after],
	)
	if (rows.length === 0 && (await readStatus(db, runId)) === undefined)
		throw new NotFoundError(`There is no run '${runId}'.`)
	const page = rows.slice(0, limit)
	const last = page.at(-1)
	return {
		events: page.map((row) => runEvent(runId, row)),
		...(rows.length > limit && last !== undefined
			? {
					nextCursor: encodeCursor([
						String(last['keysetAt']),
						String(last['rank']),
						String(last['key']),
					]),
				}
			: {}),
	}
}

/**
 * A row as an event: `what` happened to `node`, with `generation`, `recovers`, `attempt`, `shownAt`, `detailJson` and the
 * run's `blueprintId`.
 */
export function runEvent(runId: string, row: Row): RunEvent {
	const blueprintId = String(row['blueprintId'])
	const nodeId = String(row['node'])
	const detail =
		typeof row['detailJson'] === 'string'
			? (JSON.parse(row['detailJson']) as Record<string, unknown>)
			: {}
	const at = String(row['shownAt'])
	const run = { blueprintId, executionId: runId }
	const ofNode = {
		at,
		generation: showGeneration(String(row['generation'])),
		...(typeof row['attempt'] === 'number' ? { attempt: row['attempt'] } : {}),
	}
	const error = typeof detail['error'] === 'string' ? { error: JSON.parse(detail['error']) as unknown } : {}
	switch (row['what']) {
		case 'run':
			return {
				at,
				...statusEvent(detail['status'] as RunStatus, detail['before'] as RunStatus | null, run),
			}
		case 'start':
			return { type: 'node:start', payload: { nodeId, ...run }, ...ofNode }
		case 'finish': {
			const { action } = detail
			return {
				type: 'node:finish',
				payload: { nodeId, result: typeof action === 'string' ? { action } : {}, ...run },
				...ofNode,
			}
		}
		case 'error':
			return { type: 'node:error', payload: { nodeId, ...error, ...run }, ...ofNode }
		case 'retry':
			return {
				type: 'node:retry',
				payload: { nodeId, attempt: row['attempt'], outcome: detail['outcome'], ...error, ...run },
				...ofNode,
			}
		case 'fallback':
			return {
				type: 'node:fallback',
				payload: { nodeId: recoveredBy(String(row['recovers']))[0], fallback: nodeId, ...run },
				...ofNode,
			}
		default: {
			const { target, condition, result } = detail
			return {
				type: 'edge:evaluate',
				payload: {
					source: nodeId,
					target,
					...(typeof condition === 'string' ? { condition } : {}),
					result,
				},
				...ofNode,
			}
		}
	}
}

function statusEvent(
	status: RunStatus,
	before: RunStatus | null,
	run: Readonly<Record<string, string>>,
): Pick<RunEvent, 'type' | 'payload'> {
	if (before === null) return { type: 'workflow:start', payload: run }
	if (isTerminal(status)) return { type: 'workflow:finish', payload: { ...run, status } }
	// Unpaused, though it waits: it goes on all the same.
	if (status === 'running' || before === 'paused') return { type: 'workflow:resume', payload: run }
	return { type: 'workflow:pause', payload: { ...run, status } }
}
