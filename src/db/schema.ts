/**
 * The tables, as Drizzle sees them. Everything that is true of a run stands here; RabbitMQ and Redis only hint.
 *
 *   blueprints ── heads            what can be started: versions by content hash, and which one is current
 *   statuses                       one row per run: status, counters, blueprint pin, parent
 *   ├─ contexts                    one row per run and key that was started with or set by a node
 *   ├─ nodes                       one row per node, generation and failed node that it stands in for
 *   │   ├─ arrivals                who has arrived at a join
 *   │   ├─ attempts                attempts that were followed by another one
 *   │   └─ steps                   results saved inside a node
 *   ├─ outbox                      what the relay has to publish, now or when it is due
 *   └─ transitions                 history of the run's status
 *   streams ── stream_events       what live readers are told of a run, in one order; only of runs that have any
 *   workers, implementations       who is alive, and which `uses` keys were ever offered
 *   idempotency_keys, kept_events  remembered for a documented time
 *   webhooks, secrets              which one-time URLs were given out, by hash, and what they are derived from
 *
 * Rules that every writer keeps (ARCHITECTURE.md, "Lock order"): the run's row first, parents before children and
 * batches sorted by id; then nodes, arrivals, counters, outbox. Multi-step writes are the PL/pgSQL functions in
 * `src/db/sql`; nothing else changes `nodes`, `arrivals`, `outbox` or a run's counters.
 *
 * There are no foreign keys on the hot path: each would lock its parent's row once per insert.
 */
import { sql } from 'drizzle-orm'
import {
	bigint,
	check,
	customType,
	foreignKey,
	index,
	integer,
	jsonb,
	pgTable,
	pgView,
	primaryKey,
	smallint,
	text,
	timestamp,
	uniqueIndex,
	uuid,
} from 'drizzle-orm/pg-core'

/** Text compared by bytes: cheaper than a locale's order, and the order that generations rely on. */
const bytes = customType<{ data: string }>({ dataType: () => 'text collate "C"' })

const at = () => timestamp({ withTimezone: true, mode: 'date' })

/** The number of a transaction: tells, compared with a snapshot, what was committed after it (`src/db/sql/69_stream.sql`). */
const transactionId = customType<{ data: string }>({ dataType: () => 'xid8' })
const snapshot = customType<{ data: string }>({ dataType: () => 'pg_snapshot' })

/** What a run can be. The first three are live, the others final. */
export const RUN_STATUSES = ['running', 'awaiting', 'paused', 'completed', 'failed', 'cancelled'] as const
export type RunStatus = (typeof RUN_STATUSES)[number]

/**
 * What a node of a run can be.
 * - `pending`: a join where somebody has arrived, but not everybody. Not live.
 * - `ready`: may run; its message is in the outbox, in the broker, or lost. A retry is `ready` with a future `dueAt`.
 * - `running`: claimed by a worker.
 * - `waiting`: waits for a timer, an event, a webhook or a person.
 * - `child`: waits for its child run.
 * - `recovered`: failed, but its fallback completed.
 * - `cancelled`: its run was; or a failed fallback, set aside while the node that it stands in for is tried again.
 */
export const NODE_STATES = [
	'pending',
	'ready',
	'running',
	'waiting',
	'child',
	'completed',
	'failed',
	'recovered',
	'cancelled',
] as const
export type NodeState = (typeof NODE_STATES)[number]

const oneOf = (values: readonly string[]) => sql.raw(values.map((value) => `'${value}'`).join(', '))

/** Versions of blueprints, by content. Rows never change after their insert. */
export const blueprints = pgTable(
	'flowcraft_blueprints',
	{
		blueprintId: text().notNull(),
		/** First 32 hex digits of the SHA-256 of the canonical definition. */
		hash: text().notNull(),
		/** `metadata.version`, where the author gave one. */
		version: text(),
		/** The definition as registered, JSON text. */
		definition: text().notNull(),
		/** What a start needs to know, so that functions plan nothing: the nodes that become ready at once. */
		startNodes: text().array().notNull(),
		/** Ids of the blueprints that its subflow nodes name: pinned when a run of this one starts. */
		subflows: text().array().notNull(),
		createdAt: at().notNull().defaultNow(),
	},
	(t) => [
		primaryKey({ columns: [t.blueprintId, t.hash] }),
		// The same version with another content is refused; also finds a version by its name.
		index('flowcraft_blueprints_version').on(t.blueprintId, t.version),
	],
)

/** The current version of each blueprint: what a start without `version` gets. */
export const blueprintHeads = pgTable(
	'flowcraft_blueprint_heads',
	{
		blueprintId: text().primaryKey(),
		hash: text().notNull(),
		updatedAt: at().notNull().defaultNow(),
	},
	(t) => [
		foreignKey({
			columns: [t.blueprintId, t.hash],
			foreignColumns: [blueprints.blueprintId, blueprints.hash],
		}),
	],
)

/** One row per run. Each write of the run locks this row first. */
export const statuses = pgTable(
	'flowcraft_statuses',
	{
		runId: bytes().primaryKey(),
		status: text().$type<RunStatus>().notNull(),
		/** Why it failed or was cancelled, for people. */
		reason: text(),
		blueprintId: text().notNull(),
		blueprintHash: text().notNull(),
		blueprintVersion: text(),
		/** Hashes of the subflows' blueprints, pinned when the outermost run started: `{ blueprintId: hash }`. */
		pins: jsonb().$type<Record<string, string>>(),
		parentRunId: bytes(),
		parentNodeId: text(),
		parentGeneration: bytes(),
		parentRecovers: text(),
		/** 0 for a run that was started from outside, 1 for its children, and so on. */
		depth: smallint().notNull().default(0),
		/** Nodes that are ready, running, waiting or have a child: zero ends the run. */
		liveCount: integer().notNull(),
		/** How many of the live nodes only wait, or have a child that only waits. */
		waitingCount: integer().notNull().default(0),
		/** Failed nodes that nothing has recovered. */
		failedCount: integer().notNull().default(0),
		/** Rises with each commit: orders writes of one key without trusting clocks. */
		commitSeq: bigint({ mode: 'number' }).notNull().default(0),
		tags: text()
			.array()
			.notNull()
			.default(sql`'{}'`),
		/** W3C trace context of whoever started the run. */
		traceparent: text(),
		deadlineAt: at(),
		createdAt: at().notNull().defaultNow(),
		updatedAt: at().notNull().defaultNow(),
		finishedAt: at(),
	},
	(t) => [
		check('flowcraft_statuses_status', sql`${t.status} in (${oneOf(RUN_STATUSES)})`),
		check(
			'flowcraft_statuses_counts',
			sql`${t.liveCount} >= 0 and ${t.waitingCount} between 0 and ${t.liveCount}`,
		),
		// Final exactly when finished.
		check(
			'flowcraft_statuses_finished',
			sql`(${t.finishedAt} is null) = (${t.status} in ('running', 'awaiting', 'paused'))`,
		),
		// GET /runs: newest first, by keyset. Neither column changes, so updates of the row stay HOT.
		index('flowcraft_statuses_newest').on(t.createdAt, t.runId),
		index('flowcraft_statuses_blueprint').on(t.blueprintId, t.createdAt, t.runId),
		// GET /runs?parent=, cancelling a parent with its children.
		index('flowcraft_statuses_parent')
			.on(t.parentRunId)
			.where(sql`parent_run_id is not null`),
		// GET /runs?tag=; runs without tags cost nothing.
		index('flowcraft_statuses_tags')
			.using('gin', t.tags)
			.where(sql`tags <> '{}'`),
		// GET /runs?status= for the live ones and the sweep: stays small however many runs have ended.
		index('flowcraft_statuses_live')
			.on(t.status, t.createdAt, t.runId)
			.where(sql`finished_at is null`),
	],
)

/** What a run was started with and what its nodes have set, one row per key. Outputs of nodes stand in `nodes`. */
export const contexts = pgTable(
	'flowcraft_contexts',
	{
		runId: bytes().notNull(),
		key: bytes().notNull(),
		/** As the serializer wrote it; null: deleted, while a node's output of the same name would show through. */
		value: text(),
		/** The run's `commitSeq` of the write; the start is 0. */
		seq: bigint({ mode: 'number' }).notNull(),
	},
	(t) => [primaryKey({ columns: [t.runId, t.key] })],
)

/** One row per node of a run, loop generation, and chain of failed nodes that it stands in for as their fallback. */
export const nodes = pgTable(
	'flowcraft_nodes',
	{
		runId: bytes().notNull(),
		nodeId: bytes().notNull(),
		/** Loop iterations, outermost first, in an encoding that sorts (`src/plan/generation.ts`); '' outside loops. */
		generation: bytes().notNull().default(''),
		/** JSON array of the failed nodes that this fallback stands in for, nearest first; '' for an ordinary node. */
		recovers: bytes().notNull().default(''),
		state: text().$type<NodeState>().notNull(),
		/** 1-based; a thrown error or a timeout begins the next one. */
		attempt: integer().notNull().default(1),
		/** Times that a worker died with this node in hand. Does not count against `maxRetries`. */
		crashes: integer().notNull().default(0),
		/** Since when workers have been giving it back because they have no implementation for it. */
		unrunnableSince: at(),
		/** Not before: of a retry, a timer, the timeout of a wait. */
		dueAt: at(),
		/** When its message was last put into the outbox. A claim far later than this hints at a lost message. */
		emittedAt: at().notNull().defaultNow(),
		/** How often the sweep had to put the message there again. */
		reemits: smallint().notNull().default(0),
		workerId: uuid(),
		/** Only its holder may finish the node. Kept afterwards, so that a repeated commit is recognised. */
		claimToken: uuid(),
		claimedAt: at(),
		/** The transaction of its latest claim, which holds no lock on the run: live readers find it by this. */
		claimedXid: transactionId(),
		/** The node whose output is this one's default input … */
		inputNode: bytes(),
		inputGeneration: bytes(),
		inputRecovers: bytes(),
		/** … or the value itself, where an edge transformed it. */
		input: text(),
		/** Blueprint index of the edge that gave the input: among several, the last taken one counts. */
		inputEdge: integer(),
		/** Joins: sources that have to arrive, that have arrived, and arrivals by a taken edge. */
		expected: integer(),
		arrived: integer(),
		taken: integer(),
		output: text(),
		action: text(),
		/** JSON object: name, message, stack, … */
		error: text(),
		/** Why no worker could bring it to an end, if that is why it failed. */
		deadLetter: text(),
		/** Why it stopped waiting: `timer`, `resume`, `child`. Null: run the implementation. */
		wake: text(),
		/** What it waits for, JSON object: `{ reason, … }`. */
		wait: text(),
		/** Name of the awaited event, for the look-up by event. */
		waitEvent: text(),
		waitKey: text(),
		/** What it was resumed with, JSON object: `{ output?, action? }`. */
		resume: text(),
		/**
		 * Of a node that the blueprint does not have, JSON object: its definition, the node of the blueprint in whose place
		 * it runs, and the gather that waits for it. Also of the fallback of such a node.
		 */
		dynamic: text(),
		childRunId: bytes(),
		/** The child's status when its parent last heard of it. */
		childStatus: text().$type<RunStatus>(),
		queue: text(),
		priority: smallint(),
		concurrencyKey: text(),
		/** The run's `commitSeq` that finished it. */
		finishedSeq: bigint({ mode: 'number' }),
		createdAt: at().notNull().defaultNow(),
		finishedAt: at(),
	},
	(t) => [
		primaryKey({ columns: [t.runId, t.nodeId, t.generation, t.recovers] }),
		check('flowcraft_nodes_state', sql`${t.state} in (${oneOf(NODE_STATES)})`),
		check(
			'flowcraft_nodes_claim',
			sql`${t.state} <> 'running' or (${t.workerId} is not null and ${t.claimToken} is not null)`,
		),
		// The sweep: ready nodes whose message may be lost. Only live nodes are in it.
		index('flowcraft_nodes_ready')
			.on(t.emittedAt)
			.where(sql`state = 'ready'`),
		// The sweep: what dead workers held; draining gives back by it.
		index('flowcraft_nodes_running')
			.on(t.workerId)
			.where(sql`state = 'running'`),
		// The sweep: timers whose message is lost.
		index('flowcraft_nodes_due')
			.on(t.dueAt)
			.where(sql`state = 'waiting' and due_at is not null`),
		index('flowcraft_nodes_event')
			.on(t.waitEvent, t.waitKey)
			.where(sql`state = 'waiting' and wait_event is not null`),
		// A finished child whose message to its parent is lost.
		index('flowcraft_nodes_child')
			.on(t.childRunId)
			.where(sql`state = 'child'`),
		// History of loops, bounded by the sweep; whatever is outside loops is not in it.
		index('flowcraft_nodes_turns')
			.on(t.runId, t.nodeId, t.generation)
			.where(sql`generation <> ''`),
		// Live readers: what has ended since a commit, and what was claimed since a snapshot.
		index('flowcraft_nodes_ended')
			.on(t.runId, t.finishedSeq)
			.where(sql`finished_seq is not null`),
		index('flowcraft_nodes_claimed')
			.on(t.runId, t.claimedXid)
			.where(sql`claimed_xid is not null and finished_seq is null`),
		index('flowcraft_nodes_dead_letters')
			.on(t.finishedAt)
			.where(sql`dead_letter is not null`),
	],
)

/** Who has arrived at a join: one row per source node, however many edges lead there. The gate of the counters. */
export const arrivals = pgTable(
	'flowcraft_arrivals',
	{
		runId: bytes().notNull(),
		nodeId: bytes().notNull(),
		generation: bytes().notNull(),
		source: bytes().notNull(),
		taken: smallint().notNull(),
	},
	(t) => [primaryKey({ columns: [t.runId, t.nodeId, t.generation, t.source] })],
)

/** Attempts that were followed by another one; the latest attempt stands with its node. Partitionable by time. */
export const attempts = pgTable(
	'flowcraft_attempts',
	{
		recordedAt: at().notNull().defaultNow(),
		id: bigint({ mode: 'number' }).notNull().generatedAlwaysAsIdentity(),
		runId: bytes().notNull(),
		nodeId: bytes().notNull(),
		generation: bytes().notNull(),
		recovers: bytes().notNull(),
		attempt: integer().notNull(),
		/** `failed`, or `crashed`: its worker died. */
		outcome: text().notNull(),
		workerId: uuid(),
		claimedAt: at(),
		error: text(),
		/** The transaction that recorded it. */
		xid: transactionId()
			.notNull()
			.default(sql`pg_current_xact_id()`),
	},
	(t) => [
		primaryKey({ columns: [t.recordedAt, t.id] }),
		index('flowcraft_attempts_run').on(t.runId, t.nodeId),
		// Live readers: what was recorded since a snapshot. A crash is recorded without a lock on the run.
		index('flowcraft_attempts_recorded').on(t.runId, t.xid),
	],
)

/** History of a run's status. Partitionable by time. */
export const transitions = pgTable(
	'flowcraft_transitions',
	{
		recordedAt: at().notNull().defaultNow(),
		id: bigint({ mode: 'number' }).notNull().generatedAlwaysAsIdentity(),
		runId: bytes().notNull(),
		status: text().$type<RunStatus>().notNull(),
		reason: text(),
	},
	// Of one run the ids rise in the order of the commits: they are drawn under the run's lock. The time is part of the key
	// for the sake of partitions.
	(t) => [primaryKey({ columns: [t.runId, t.id, t.recordedAt] })],
)

/** Results saved inside a node by `dependencies.step`. */
export const steps = pgTable(
	'flowcraft_steps',
	{
		runId: bytes().notNull(),
		nodeId: bytes().notNull(),
		generation: bytes().notNull(),
		recovers: bytes().notNull(),
		key: bytes().notNull(),
		value: text(),
		savedAt: at().notNull().defaultNow(),
	},
	(t) => [primaryKey({ columns: [t.runId, t.nodeId, t.generation, t.recovers, t.key] })],
)

/** How far a run's history has been put in order for live readers; a row's lock is the right to go on. */
export const streams = pgTable('flowcraft_streams', {
	runId: bytes().primaryKey(),
	/** The number of its last event. */
	lastSeq: bigint({ mode: 'number' }).notNull().default(0),
	/** The run's `commitSeq`, its last transition and the snapshot up to which everything has a number. */
	commitSeq: bigint({ mode: 'number' }).notNull().default(0),
	transitionId: bigint({ mode: 'number' }).notNull().default(0),
	seen: snapshot()
		.notNull()
		.default(sql`'1:1:'`),
})

/**
 * What live readers are told, numbered from 1 within each run. Written when somebody reads a run live or a node emits,
 * never for others; what a number stands for does not change any more.
 */
export const streamEvents = pgTable(
	'flowcraft_stream_events',
	{
		runId: bytes().notNull(),
		seq: bigint({ mode: 'number' }).notNull(),
		/** Says which event it is, so that none gets two numbers. */
		key: uuid().notNull(),
		at: at().notNull(),
		what: text().notNull(),
		nodeId: bytes().notNull(),
		generation: bytes().notNull(),
		recovers: bytes().notNull(),
		attempt: integer(),
		/** JSON object. */
		detail: text(),
	},
	(t) => [
		primaryKey({ columns: [t.runId, t.seq] }),
		uniqueIndex('flowcraft_stream_events_key').on(t.runId, t.key),
		// The sweep: what was emitted is kept for a while.
		index('flowcraft_stream_events_emitted')
			.on(t.at)
			.where(sql`what = 'emit'`),
	],
)

/**
 * What the relay has to publish. A row is deleted when the broker has confirmed it; drained by state, never by id,
 * since a transaction in flight commits behind later ids.
 */
export const outbox = pgTable(
	'flowcraft_outbox',
	{
		id: bigint({ mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
		/** Stable over republication. */
		messageId: uuid().notNull().defaultRandom(),
		/** `job`: a node may run. `event`: a business event for the user's exchange. `child`: a parent has to look at its child. */
		kind: text().$type<'job' | 'event' | 'child'>().notNull().default('job'),
		runId: bytes().notNull(),
		nodeId: bytes().notNull(),
		generation: bytes().notNull().default(''),
		recovers: bytes().notNull().default(''),
		blueprintId: text().notNull(),
		/** Null: the deployment's default queue. */
		queue: text(),
		priority: smallint(),
		concurrencyKey: text(),
		/** Of an event: where it goes, its body as the serializer wrote it, and a JSON object of texts. */
		exchange: text(),
		routingKey: text(),
		payload: text(),
		headers: text(),
		traceparent: text(),
		dueAt: at().notNull().defaultNow(),
		/** Which relay publishes it now, and until when nobody else may. Neither is indexed: claims stay HOT. */
		claimToken: uuid(),
		claimedUntil: at(),
		/** Failed publications so far. */
		failures: integer().notNull().default(0),
		lastError: text(),
		createdAt: at().notNull().defaultNow(),
	},
	(t) => [
		check('flowcraft_outbox_kind', sql`${t.kind} in ('job', 'event', 'child')`),
		check(
			'flowcraft_outbox_event',
			sql`${t.kind} <> 'event' or (${t.exchange} is not null and ${t.routingKey} is not null and ${t.payload} is not null)`,
		),
		// Apart, so that events which nobody takes are never in the way of jobs, however many they become.
		index('flowcraft_outbox_due').on(sql`(kind = 'event')`, t.dueAt),
		// Resume and cancel remove a node's timers; the sweep asks whether a node's message is still here.
		index('flowcraft_outbox_node').on(t.runId, t.nodeId),
	],
)

/** One row per worker process: its lease covers everything that it has claimed. */
export const workers = pgTable(
	'flowcraft_workers',
	{
		workerId: uuid().primaryKey(),
		name: text().notNull(),
		version: text(),
		queues: text().array().notNull(),
		slots: integer().notNull(),
		/** Blueprint versions it offers, as `id@hash`. */
		offers: text()
			.array()
			.notNull()
			.default(sql`'{}'`),
		startedAt: at().notNull().defaultNow(),
		heartbeatAt: at().notNull().defaultNow(),
		leaseUntil: at().notNull(),
		drainingAt: at(),
		stoppedAt: at(),
		/** When the sweep declared it dead: it can never claim or finish anything again. */
		deadAt: at(),
	},
	(t) => [
		index('flowcraft_workers_lease')
			.on(t.leaseUntil)
			.where(sql`stopped_at is null and dead_at is null`),
	],
)

/** Every `uses` key that a worker has ever offered: lets registration warn of those that nobody has. */
export const implementations = pgTable('flowcraft_implementations', {
	uses: text().primaryKey(),
	offeredAt: at().notNull().defaultNow(),
})

/** Starts that may be repeated without starting twice. */
export const idempotencyKeys = pgTable(
	'flowcraft_idempotency_keys',
	{
		/** Whose key it is: keys of different API keys never meet. */
		scope: text().notNull(),
		key: text().notNull(),
		/** SHA-256 of the canonical request. */
		requestHash: text().notNull(),
		runId: bytes().notNull(),
		expiresAt: at().notNull(),
	},
	(t) => [
		primaryKey({ columns: [t.scope, t.key] }),
		index('flowcraft_idempotency_keys_expiry').on(t.expiresAt),
	],
)

/** Events that came before anybody waited for them; the next wait that matches takes the oldest. */
export const keptEvents = pgTable(
	'flowcraft_kept_events',
	{
		id: bigint({ mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
		name: text().notNull(),
		key: text(),
		/** What a wait is resumed with, as in `nodes.resume`. */
		payload: text().notNull(),
		receivedAt: at().notNull().defaultNow(),
		expiresAt: at().notNull(),
	},
	(t) => [
		index('flowcraft_kept_events_name').on(t.name, t.key),
		index('flowcraft_kept_events_expiry').on(t.expiresAt),
	],
)

/** URLs that were given out: each ends one wait, once, before it expires. The token itself stands nowhere here. */
export const webhooks = pgTable(
	'flowcraft_webhooks',
	{
		/** SHA-256 of the token, in hex; `webhook:<hash>` is the event that a request sends. */
		hash: text().primaryKey(),
		runId: bytes().notNull(),
		nodeId: bytes().notNull(),
		createdAt: at().notNull().defaultNow(),
		expiresAt: at().notNull(),
		usedAt: at(),
	},
	(t) => [index('flowcraft_webhooks_run').on(t.runId), index('flowcraft_webhooks_expiry').on(t.expiresAt)],
)

/** Random values that all processes have to agree on, where the environment gives none. */
export const secrets = pgTable('flowcraft_secrets', {
	name: text().primaryKey(),
	value: text().notNull(),
	createdAt: at().notNull().defaultNow(),
})

/** For SQL clients that poll as they did with Flowcraft's own adapters. `result` is assembled on read. */
export const results = pgView('flowcraft_results', {
	runId: text().notNull(),
	status: text().$type<RunStatus>().notNull(),
	result: jsonb().$type<{ context: Record<string, unknown>; status: RunStatus }>(),
	reason: text(),
	updatedAt: at().notNull(),
}).existing()

/** A run's whole context as one document, for queries. */
export const contextDocuments = pgView('flowcraft_context_documents', {
	runId: text().notNull(),
	data: jsonb().$type<Record<string, unknown>>().notNull(),
}).existing()
