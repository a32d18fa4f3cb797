/**
 * The commit of finished nodes: plans in, one statement out. `src/db/sql/50_commit.sql` applies it.
 */
import type { ClaimedNode } from '../claim/claim.js'
import { type Executor, query, textArray } from '../db/query.js'
import { type DynamicNode, writeDynamic } from '../plan/dynamic.js'
import type { NodeKey } from '../plan/node-key.js'

/** Where a stored input comes from; the outputs of this commit's node, or a value as the codec wrote it. */
export type StoredInput =
	| { readonly type: 'none' }
	| { readonly type: 'output' }
	| { readonly type: 'value'; readonly text: string | null }

/** An event that ends a wait. */
export interface AwaitedEvent {
	readonly name: string
	readonly key?: string
}

/** A business event for an exchange of the user's. */
export interface OutboxEvent {
	/** A UUID; consumers drop repeats by it. */
	readonly messageId: string
	readonly exchange: string
	readonly routingKey: string
	/** As the serializer wrote it. */
	readonly body: string
	readonly headers: Readonly<Record<string, string>>
	/** 0 to 9. */
	readonly priority?: number | undefined
}

/** What becomes true when this node's commit is applied. All texts are as the codec wrote them. */
export interface NodeCommit {
	readonly key: NodeKey
	/** The claim: without it nothing of this is applied. */
	readonly token: string
	readonly outcome: 'completed' | 'failed' | 'retry' | 'waiting' | 'child' | 'pending'
	readonly output?: string | null
	readonly action?: string | undefined
	/** JSON object. */
	readonly error?: string
	/** The run's reason, if it fails by this. */
	readonly reason?: string
	readonly deadLetter?: string
	/** Until the retry, or the end of the wait; in ms. */
	readonly delayMs?: number | undefined
	/** JSON object: `{ reason, … }`. */
	readonly wait?: string
	/** What ends the wait, beside a resume; any correlation key counts if none is named. */
	readonly waitEvent?: AwaitedEvent | undefined
	readonly childRunId?: string
	readonly childBlueprint?: string
	readonly childInput?: readonly (readonly [key: string, text: string])[]
	readonly next?: readonly {
		nodeId: string
		generation: string
		recovers: string
		edge: number
		input: StoredInput
		/** Of nodes that the blueprint does not have. */
		dynamic?: DynamicNode | undefined
		/** The token under which the committing worker goes on with it, if it may. */
		claim?: string | undefined
	}[]
	/** Joins that wait for more sources than the blueprint's. */
	readonly raises?: readonly { nodeId: string; generation: string; expected: number; by: number }[]
	readonly arrivals?: readonly {
		nodeId: string
		generation: string
		source: string
		taken: boolean
		expected: number
		edge: number
		input: StoredInput
		held?: readonly { source: string; generation: string }[]
		holdsFor?: string | undefined
		/** The token under which the committing worker goes on with the join, if this arrival completes it. */
		claim?: string | undefined
	}[]
	readonly recovered?: readonly { nodeId: string; generation: string; recovers: string }[]
	/** A webhook that becomes usable: the hash of its token, and how long it is good. */
	readonly webhook?: { readonly hash: string; readonly expiresInMs: number } | undefined
	/** Events that go out with it. */
	readonly events?: readonly OutboxEvent[]
	/** Context keys with their values; null deletes. */
	readonly writes?: readonly (readonly [key: string, text: string | null])[]
}

/**
 * - `committed`: applied now.
 * - `repeated`: applied before, by an earlier try whose answer was lost.
 * - `refused`: it contradicts the run (`refusals` says how); nothing of this node was applied.
 * - `lost`: the claim is somebody else's by now, or the run has ended. Nothing was applied, and nothing should be.
 */
export type CommitOutcome = 'committed' | 'repeated' | 'refused' | 'lost'

export interface CommitResult {
	/** One per commit, in order. */
	readonly outcomes: readonly CommitOutcome[]
	/** Why the refused ones were, by their place. */
	readonly refusals: ReadonlyMap<number, string>
	/** Runs that have ended by this. */
	readonly ended: readonly string[]
	/** Rows added to the outbox. */
	readonly emitted: number
	/** Claims that were offered and taken: `running` nodes of the worker that committed, by their tokens. */
	readonly continued: ReadonlyMap<string, Continued>
}

/** A node that its predecessor's commit has claimed. The input of a join is only known once it is complete. */
export interface Continued {
	readonly join?: Pick<ClaimedNode, 'hasInput' | 'transformed' | 'input'>
}

/** A parameter of `flowcraft_commit`: an array, cast to its type. */
type Column = { readonly type: string; readonly values: (string | number | null)[] }

/**
 * Applies the commits of any number of nodes of any runs, each fenced by its own claim, in one statement.
 * @param workerId who goes on with the nodes for which a claim is offered; without it nobody does
 */
export async function commitNodes(
	db: Executor,
	commits: readonly NodeCommit[],
	workerId?: string,
): Promise<CommitResult> {
	const columns = toColumns(commits)
	const [row] = await query<{ answer: string }>(
		db,
		`select to_json(c)::text as answer from flowcraft_commit($1::text::uuid, ${placeholders(columns)}) c`,
		[workerId ?? null, ...columns.map(({ values }) => textArray(values))],
	)
	if (row === undefined) throw new Error('flowcraft_commit answered nothing')
	return readAnswer(row.answer, commits)
}

/**
 * The same inside an interactive transaction, whose COMMIT is then to follow at once: the runs stay locked until it comes.
 *
 * @param transaction what `pg_current_xact_id()` has answered in it
 * @returns undefined if this is another transaction, or none: then nothing was applied
 */
export async function commitNodeInside(
	db: Executor,
	transaction: string,
	commit: NodeCommit,
): Promise<CommitResult | undefined> {
	const columns = toColumns([commit])
	// A worker that stands still from here on holds the runs' locks no longer than that.
	const [row] = await query<{ answer: string | null }>(
		db,
		`select set_config('idle_in_transaction_session_timeout', '5000', true),
			case when pg_current_xact_id()::text = $1::text then (
				select to_json(c)::text from flowcraft_commit(null::uuid, ${placeholders(columns)}) c
			) end as answer`,
		[transaction, ...columns.map(({ values }) => textArray(values))],
	)
	return typeof row?.answer === 'string' ? readAnswer(row.answer, [commit]) : undefined
}

/** From the second parameter on. */
const placeholders = (columns: readonly Column[]): string =>
	columns.map(({ type }, position) => `$${position + 2}::text::${type}[]`).join(', ')

function readAnswer(text: string, commits: readonly NodeCommit[]): CommitResult {
	const answer = JSON.parse(text) as {
		committed: number[]
		repeated: number[]
		refused: number[]
		refusals: string[]
		ended: string[]
		emitted: number
		continued: string[]
		joined: (NonNullable<Continued['join']> & { token: string })[]
	}
	const outcomes = commits.map((): CommitOutcome => 'lost')
	const mark = (numbers: readonly number[], outcome: CommitOutcome): void => {
		for (const number of numbers) outcomes[number - 1] = outcome
	}
	mark(answer.repeated, 'repeated')
	mark(answer.refused, 'refused')
	mark(answer.committed, 'committed')
	const refusals = new Map(
		answer.refused.map((number, position) => [number - 1, answer.refusals[position] ?? '']),
	)
	const continued = new Map<string, Continued>()
	for (const token of answer.continued) continued.set(token, {})
	for (const { token, ...join } of answer.joined) continued.set(token, { join })
	return { outcomes, refusals, ended: answer.ended, emitted: answer.emitted, continued }
}

/** In the order of the function's parameters. */
function toColumns(commits: readonly NodeCommit[]): Column[] {
	const text = (values: (string | null | undefined)[]): Column => ({
		type: 'text',
		values: values.map((value) => value ?? null),
	})
	const int = (values: number[]): Column => ({ type: 'int', values })
	const each = <T>(pick: (commit: NodeCommit) => T): T[] => commits.map(pick)

	const next = flatten(commits, (commit) => commit.next)
	const raises = flatten(commits, (commit) => commit.raises)
	const arrivals = flatten(commits, (commit) => commit.arrivals)
	const held = arrivals.flatMap(({ item }, position) =>
		(item.held ?? []).map((each) => ({ arrival: position + 1, ...each })),
	)
	const recovered = flatten(commits, (commit) => commit.recovered)
	const writes = flatten(commits, (commit) => commit.writes)
	const childInput = flatten(commits, (commit) => commit.childInput)
	const events = flatten(commits, (commit) => commit.events)
	const webhooks = flatten(commits, (commit) => (commit.webhook === undefined ? [] : [commit.webhook]))

	const inputs = (rows: readonly { of: number; item: { input: StoredInput } }[]): Column[] => {
		// A reference is to the output of the very node that this commit finishes.
		const reference = (pick: (key: NodeKey) => string): Column =>
			text(
				rows.map(({ of, item }) =>
					item.input.type === 'output' ? pick((commits[of - 1] as NodeCommit).key) : null,
				),
			)
		return [
			reference((key) => key.nodeId),
			reference((key) => key.generation),
			reference((key) => key.recovers),
			text(rows.map(({ item }) => (item.input.type === 'value' ? item.input.text : null))),
		]
	}

	return [
		text(each((commit) => commit.key.runId)),
		text(each((commit) => commit.key.nodeId)),
		text(each((commit) => commit.key.generation)),
		text(each((commit) => commit.key.recovers)),
		{ type: 'uuid', values: each((commit) => commit.token) },
		text(each((commit) => commit.outcome)),
		text(each((commit) => commit.output)),
		text(each((commit) => commit.action)),
		text(each((commit) => commit.error)),
		text(each((commit) => commit.reason)),
		text(each((commit) => commit.deadLetter)),
		{
			type: 'bigint',
			values: each((commit) => (commit.delayMs === undefined ? null : Math.round(commit.delayMs))),
		},
		text(each((commit) => commit.wait)),
		text(each((commit) => commit.waitEvent?.name)),
		text(each((commit) => commit.waitEvent?.key)),
		text(each((commit) => commit.childRunId)),
		text(each((commit) => commit.childBlueprint)),

		int(next.map(({ of }) => of)),
		text(next.map(({ item }) => item.nodeId)),
		text(next.map(({ item }) => item.generation)),
		text(next.map(({ item }) => item.recovers)),
		int(next.map(({ item }) => item.edge)),
		...inputs(next),
		text(next.map(({ item }) => writeDynamic(item.dynamic))),

		int(raises.map(({ of }) => of)),
		text(raises.map(({ item }) => item.nodeId)),
		text(raises.map(({ item }) => item.generation)),
		int(raises.map(({ item }) => item.expected)),
		int(raises.map(({ item }) => item.by)),

		int(arrivals.map(({ of }) => of)),
		text(arrivals.map(({ item }) => item.nodeId)),
		text(arrivals.map(({ item }) => item.generation)),
		text(arrivals.map(({ item }) => item.source)),
		int(arrivals.map(({ item }) => (item.taken ? 1 : 0))),
		int(arrivals.map(({ item }) => item.expected)),
		int(arrivals.map(({ item }) => item.edge)),
		...inputs(arrivals),
		text(arrivals.map(({ item }) => item.holdsFor)),

		int(held.map(({ arrival }) => arrival)),
		text(held.map(({ source }) => source)),
		text(held.map(({ generation }) => generation)),

		int(recovered.map(({ of }) => of)),
		text(recovered.map(({ item }) => item.nodeId)),
		text(recovered.map(({ item }) => item.generation)),
		text(recovered.map(({ item }) => item.recovers)),

		int(writes.map(({ of }) => of)),
		text(writes.map(({ item }) => item[0])),
		text(writes.map(({ item }) => item[1])),

		int(childInput.map(({ of }) => of)),
		text(childInput.map(({ item }) => item[0])),
		text(childInput.map(({ item }) => item[1])),

		int(webhooks.map(({ of }) => of)),
		text(webhooks.map(({ item }) => item.hash)),
		{ type: 'bigint', values: webhooks.map(({ item }) => Math.round(item.expiresInMs)) },

		int(events.map(({ of }) => of)),
		{ type: 'uuid', values: events.map(({ item }) => item.messageId) },
		text(events.map(({ item }) => item.exchange)),
		text(events.map(({ item }) => item.routingKey)),
		text(events.map(({ item }) => item.body)),
		text(events.map(({ item }) => JSON.stringify(item.headers))),
		{ type: 'int', values: events.map(({ item }) => item.priority ?? null) },

		{ type: 'uuid', values: next.map(({ item }) => item.claim ?? null) },
		{ type: 'uuid', values: arrivals.map(({ item }) => item.claim ?? null) },
	]
}

/** What several commits carry, each item with the 1-based number of its commit. */
function flatten<T>(
	commits: readonly NodeCommit[],
	pick: (commit: NodeCommit) => readonly T[] | undefined,
): { of: number; item: T }[] {
	return commits.flatMap((commit, position) =>
		(pick(commit) ?? []).map((item) => ({ of: position + 1, item })),
	)
}
