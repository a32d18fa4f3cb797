/**
 * From a claim to its commit: go on or begin, execute, plan. Returns what has to become true; changes nothing itself.
 */
import { type NodeContext, type NodeDefinition, type NodeResult } from 'flowcraft'
import type { BlueprintGraph } from '../../src/blueprint/graph.js'
import { contentHash } from '../../src/blueprint/hash.js'
import type { BlueprintStore } from '../../src/blueprint/store.js'
import type { ClaimedNode } from '../../src/claim/claim.js'
import { createStep } from '../../src/claim/steps.js'
import type { AwaitedEvent, NodeCommit, OutboxEvent, StoredInput } from '../../src/commit/commit.js'
import { BufferedContext } from '../../src/context/node-context.js'
import type { ContextReader } from '../../src/context/reading.js'
import { UnstorableValueError } from '../../src/context/values.js'
import { type Executor, type Parameter, query, type Row } from '../../src/db/query.js'
import { isDatabaseUnavailable, whileUnavailable } from '../../src/db/retry.js'
import { type DynamicNode, readDynamic } from '../../src/plan/dynamic.js'
import { keysNeededBy } from '../../src/plan/expressions.js'
import { recoveredBy } from '../../src/plan/node-key.js'
import {
	edgesOf,
	gatherGeneration,
	type Plan,
	planCompletion,
	type PlannedInput,
	type PlannedNode,
	planFailure,
	planMore,
} from '../../src/plan/plan.js'
import { withJitter } from '../../src/loop.js'
import { ClaimLostError, RunCancelledError, WorkerDrainingError } from './aborts.js'
import type { CommitCallback } from '../transaction/commit.js'
import { AttemptLimit, isFatal, runAttempt, toError } from './attempt.js'
import { gather, scatter } from './batch.js'
import { BusinessEvents } from './business-events.js'
import { CommitCallbacks } from './commit-callbacks.js'
import { sleepDuration, subflowParams, turnLoop } from './built-in.js'
import { createDependencies, NodeState } from './node-dependencies.js'
import { resolveInput } from './node-input.js'
import { eventOfDetails, NodeWaitTimeoutError, readWait } from './wait.js'
import { webhookExpiry, type WebhookUrls } from './webhook.js'
import { canRun, type Workflows } from './workflows.js'
import type { Emitter } from './emitter.js'

/** A node whose workers died this many times is not given to another one. */
const MAX_CRASHES = 5
/** Parents above a run at most: a subflow that calls itself ends here. */
const MAX_DEPTH = 32
/** First delay between attempts where the node gives no `retryDelay`, in ms. */
const DEFAULT_RETRY_DELAY_MS = 500
/** No delay between attempts is longer, in ms. */
const MAX_RETRY_DELAY_MS = 5 * 60_000

export interface ExecutionEngine {
	readonly db: Executor
	readonly reader: ContextReader
	readonly workflows: Workflows
	readonly blueprints: BlueprintStore
	/** Blueprint versions that this worker brought itself, as `id@hash`. */
	readonly offers: ReadonlySet<string>
	/** After so long without a worker that can run it, a node fails as a dead letter; in ms. */
	readonly unrunnableLimitMs: number
	readonly webhooks: WebhookUrls
	readonly emitter: Emitter
}

/**
 * - `commit`: what has to become true.
 * - `unrunnable`: this worker has no implementation; somebody else may have.
 * - `abandoned`: aborted from outside; the claim is gone, or is to be given back.
 */
export type NodeEnd =
	| { readonly type: 'commit'; readonly commit: NodeCommit; readonly onCommit?: OnCommit }
	| { readonly type: 'unrunnable'; readonly missing: string }
	| { readonly type: 'abandoned'; readonly because: Error }

/** Callbacks of the node that belong to its commit, and still to its attempt. */
export interface OnCommit {
	readonly callbacks: readonly CommitCallback[]
	readonly limit: AttemptLimit
	/** What a failure of theirs comes to: another attempt, or the end of the node. */
	failed(error: Error): NodeCommit
	/** The node's result stands. */
	committed(): void
}

/** What an attempt came to, before it is planned. */
type Execution =
	| {
			readonly type: 'completed'
			readonly result: NodeResult
			readonly writes: Writes
			readonly webhook?: NodeCommit['webhook']
			readonly events?: readonly OutboxEvent[]
			readonly callbacks?: readonly CommitCallback[]
	  }
	| {
			readonly type: 'waiting'
			readonly wait: Record<string, unknown>
			readonly event: AwaitedEvent | undefined
			readonly delayMs: number | undefined
			readonly writes: Writes
			readonly events?: readonly OutboxEvent[]
			readonly callbacks?: readonly CommitCallback[]
	  }
	| {
			readonly type: 'child'
			readonly blueprintId: string
			readonly input: readonly (readonly [string, string])[]
	  }
	| { readonly type: 'more'; readonly dynamicNodes: readonly NodeDefinition[]; readonly writes: Writes }

type Writes = readonly (readonly [key: string, text: string | null])[]

export async function runNode(
	engine: ExecutionEngine,
	claimed: ClaimedNode,
	signal: AbortSignal,
): Promise<NodeEnd> {
	const graph = await engine.blueprints.graph(claimed.blueprintId, claimed.blueprintHash)
	const node = readDynamic(claimed.dynamic)?.definition ?? graph?.nodes.get(claimed.key.nodeId)
	const missing = missingFor(engine, claimed, node)
	if (graph === undefined || node === undefined || missing !== undefined) {
		const what = missing ?? `node '${claimed.key.nodeId}' of blueprint '${claimed.blueprintId}'`
		if ((claimed.unrunnableMs ?? 0) < engine.unrunnableLimitMs)
			return { type: 'unrunnable', missing: what }
		return deadLetter(
			claimed,
			graph,
			`No worker could run this node for ${claimed.unrunnableMs} ms: ${what} is missing`,
		)
	}
	if (claimed.crashes > MAX_CRASHES) {
		return deadLetter(claimed, graph, `Workers died ${claimed.crashes} times while they ran this node`)
	}

	emit(engine, { type: 'node:start', payload: { ...eventPayload(claimed), input: undefined } })
	const limit = new AttemptLimit(signal)
	let onCommit: OnCommit | undefined
	try {
		const execution = await execute(engine, graph, node, claimed, limit)
		if (signal.aborted) return { type: 'abandoned', because: toError(signal.reason) }
		const commit = await planned(engine, graph, claimed, execution)
		const committed = (): void => {
			if (execution.type === 'completed')
				emit(engine, {
					type: 'node:finish',
					payload: { ...eventPayload(claimed), result: execution.result },
				})
		}
		const callbacks = 'callbacks' in execution ? (execution.callbacks ?? []) : []
		if (callbacks.length === 0) {
			committed()
			return { type: 'commit', commit }
		}
		const failedBy = (error: Error): NodeCommit => failed(engine, graph, node, claimed, error)
		onCommit = { callbacks, limit, failed: failedBy, committed }
		return { type: 'commit', commit, onCommit }
	} catch (thrown) {
		const error = toError(thrown)
		// Not the node's fault: the worker gives it back, as the same attempt.
		if (isDatabaseUnavailable(error)) throw error
		if (
			error instanceof RunCancelledError ||
			error instanceof ClaimLostError ||
			error instanceof WorkerDrainingError
		) {
			return { type: 'abandoned', because: error }
		}
		return { type: 'commit', commit: failed(engine, graph, node, claimed, error) }
	} finally {
		// The callbacks have what is left of the attempt's time.
		if (onCommit === undefined) limit.stop()
	}
}

/** A failure that was found after the attempt: when its commit was refused. */
export async function failNode(
	engine: ExecutionEngine,
	claimed: ClaimedNode,
	error: Error,
): Promise<NodeCommit> {
	const graph = await engine.blueprints.graph(claimed.blueprintId, claimed.blueprintHash)
	return failureCommit(graph, claimed, error)
}

/** What follows a node, as its commit names it. */
export interface Successor {
	readonly nodeId: string
	readonly dynamic?: DynamicNode | undefined
}

/** Whether this worker can run what follows in the run of a node that it has claimed. */
export async function successorsIn(
	engine: ExecutionEngine,
	claimed: ClaimedNode,
): Promise<(successor: Successor) => boolean> {
	const graph = await engine.blueprints.graph(claimed.blueprintId, claimed.blueprintHash)
	return ({ nodeId, dynamic }) => {
		const node = dynamic?.definition ?? graph?.nodes.get(nodeId)
		return node !== undefined && missingFor(engine, claimed, node) === undefined
	}
}

function missingFor(
	engine: ExecutionEngine,
	claimed: ClaimedNode,
	node: NodeDefinition | undefined,
): string | undefined {
	if (node === undefined) return undefined
	if (!canRun(engine.workflows, node.uses)) return `an implementation of '${node.uses}'`
	const version = `${claimed.blueprintId}@${claimed.blueprintHash}`
	if (engine.workflows.derivedUses.has(node.uses) && !engine.offers.has(version))
		return `a worker that brings blueprint ${version}`
	return undefined
}

// ── Execution ──────────────────────────────────────────────────────────────────────────────────────────────────────

async function execute(
	engine: ExecutionEngine,
	graph: BlueprintGraph,
	node: NodeDefinition,
	claimed: ClaimedNode,
	limit: AttemptLimit,
): Promise<Execution> {
	const context = new BufferedContext(engine.reader, claimed.key.runId, engine.workflows.codec)
	switch (claimed.wake) {
		case 'timer':
			return wakeUp(engine, node, claimed)
		case 'resume':
			return resumed(engine, claimed)
		case 'child':
			return collectChild(engine, node, claimed, context)
		case null:
			break
	}
	const implementation = engine.workflows.registry.get(node.uses)
	if (implementation !== undefined) {
		return executeImplementation(engine, graph, node, claimed, context, implementation, limit)
	}
	switch (node.uses) {
		case 'sleep': {
			const output = await resolveInput(node, claimed, context, engine.workflows.codec)
			return waiting(engine, { reason: 'timer' }, undefined, output, sleepDuration(node), [])
		}
		case 'wait': {
			const input = await resolveInput(node, claimed, context, engine.workflows.codec)
			const { timeoutMs, event } = await readWait(node, graph, input, context)
			return waiting(
				engine,
				{ reason: 'external_event', ...(timeoutMs === undefined ? {} : { timeoutMs }) },
				event,
				undefined,
				timeoutMs,
				[],
			)
		}
		case 'webhook': {
			const expiresInMs = webhookExpiry(node)
			const { output, hash } = await engine.webhooks.derive(claimed)
			return { type: 'completed', result: { output }, writes: [], webhook: { hash, expiresInMs } }
		}
		case 'subflow':
			return startChild(engine, node, claimed, context)
		case 'loop-controller':
			return {
				type: 'completed',
				result: await turnLoop(node, context, engine.workflows.runtime.evaluator),
				writes: [],
			}
		case 'batch-scatter': {
			const input = await resolveInput(node, claimed, context, engine.workflows.codec)
			const result = await scatter(node, claimed, input, context, (nodeId) =>
				gatherGeneration(graph, plannedNode(claimed), nodeId),
			)
			emit(engine, {
				type: 'batch:start',
				payload: {
					batchId: node.id,
					scatterNodeId: node.id,
					workerNodeIds: result.dynamicNodes.map(({ id }) => id),
				},
			})
			return { type: 'completed', result, writes: context.written() }
		}
		case 'batch-gather': {
			const gathered = await gather(node, claimed, context)
			if (gathered.type === 'more')
				return { type: 'more', dynamicNodes: gathered.dynamicNodes, writes: context.written() }
			emit(engine, {
				type: 'batch:finish',
				payload: { batchId: node.id, gatherNodeId: node.id, results: [...gathered.results] },
			})
			return { type: 'completed', result: { output: gathered.results }, writes: context.written() }
		}
		default:
			throw new Error(`There is no built-in node '${node.uses}'`)
	}
}

async function executeImplementation(
	engine: ExecutionEngine,
	graph: BlueprintGraph,
	node: NodeDefinition,
	claimed: ClaimedNode,
	context: BufferedContext,
	implementation: Parameters<typeof runAttempt>[0]['implementation'],
	limit: AttemptLimit,
): Promise<Execution> {
	const { signal } = limit
	const state = new NodeState(node.id, context)
	const published = new BusinessEvents(engine.workflows.codec, claimed)
	const emitter = engine.emitter.open(claimed)
	const callbacks = new CommitCallbacks()
	const nodeContext: Omit<NodeContext, 'signal'> = {
		context,
		input: await resolveInput(node, claimed, context, engine.workflows.codec),
		params: node.params ?? {},
		dependencies: createDependencies(
			engine.workflows,
			graph,
			claimed,
			state,
			signal,
			createStep(engine.db, engine.workflows.codec, claimed, () => new ClaimLostError()),
			published,
			emitter.emit,
			callbacks,
		),
	}
	let result: NodeResult
	let events: readonly OutboxEvent[]
	limit.start(node.config?.timeout)
	try {
		result = await runAttempt({
			node,
			implementation,
			context: nodeContext,
			middleware: engine.workflows.runtime.middleware,
			isLastAttempt: claimed.attempt >= maxAttempts(node),
			// Begun above: another one than before, if there is a timeout.
			signal: limit.signal,
		})
	} finally {
		context.close('the node has ended')
		events = published.close()
		// Whoever watches is told what it emitted before they are told that it ended.
		await emitter.close()
		callbacks.close()
	}
	const writes = context.written()
	const request = state.waitRequest()
	if (request === undefined) return { type: 'completed', result, writes, events, callbacks: callbacks.all }
	const { wakeUpAt } = request.details
	const delayMs = typeof wakeUpAt === 'string' ? Date.parse(wakeUpAt) - Date.now() : undefined
	const wait = waiting(
		engine,
		{ reason: 'external_event', ...request.details },
		eventOfDetails(node.id, request.details),
		result.output,
		delayMs === undefined || Number.isNaN(delayMs) ? undefined : Math.max(delayMs, 0),
		writes,
	)
	return { ...wait, events, callbacks: callbacks.all }
}

/** What a node returned when it began to wait is its output, unless it is resumed with another one. */
function waiting(
	{ workflows }: ExecutionEngine,
	details: Record<string, unknown>,
	event: AwaitedEvent | undefined,
	output: unknown,
	delayMs: number | undefined,
	writes: Writes,
): Extract<Execution, { type: 'waiting' }> {
	const named =
		event === undefined
			? {}
			: { eventName: event.name, ...(event.key === undefined ? {} : { correlationKey: event.key }) }
	return {
		type: 'waiting',
		wait: { ...details, ...named, output: workflows.codec.encode('output', output) },
		event,
		delayMs,
		writes,
	}
}

function wakeUp(engine: ExecutionEngine, node: NodeDefinition, claimed: ClaimedNode): Execution {
	const wait = parseObject(claimed.wait)
	if (wait['reason'] !== 'timer') throw new NodeWaitTimeoutError(node.id, wait)
	return { type: 'completed', result: { output: decodeText(engine, wait['output']) }, writes: [] }
}

function resumed(engine: ExecutionEngine, claimed: ClaimedNode): Execution {
	const wait = parseObject(claimed.wait)
	const resume = parseObject(claimed.resume)
	const output = decodeText(engine, 'output' in resume ? resume['output'] : wait['output'])
	return {
		type: 'completed',
		result: { output, ...(typeof resume['action'] === 'string' ? { action: resume['action'] } : {}) },
		writes: [],
	}
}

// ── Subflows ───────────────────────────────────────────────────────────────────────────────────────────────────────

async function startChild(
	engine: ExecutionEngine,
	node: NodeDefinition,
	claimed: ClaimedNode,
	context: BufferedContext,
): Promise<Execution> {
	const { blueprintId, inputs } = subflowParams(node)
	if (claimed.depth >= MAX_DEPTH) {
		throw fatal(
			`Subflow '${blueprintId}' would be ${claimed.depth + 1} runs deep, the limit is ${MAX_DEPTH}: does it call itself without end?`,
		)
	}
	if (inputs !== undefined) {
		const stored = await engine.reader.readKeys(
			claimed.key.runId,
			Object.values(inputs).flatMap((key) => [key, `_outputs.${key}`]),
		)
		const input = Object.entries(inputs).map(
			([childKey, key]) => [childKey, stored.get(key) ?? stored.get(`_outputs.${key}`)] as const,
		)
		return {
			type: 'child',
			blueprintId,
			input: input.filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
		}
	}
	const input = engine.workflows.codec.encode(
		'input',
		await resolveInput(node, claimed, context, engine.workflows.codec),
	)
	if (input === null) return { type: 'child', blueprintId, input: [] }
	const [row] = await ask<{ start_nodes: string | null }>(
		engine,
		`select to_json(b.start_nodes)::text as start_nodes from flowcraft_statuses s
		join flowcraft_blueprints b on b.blueprint_id = $2::text
			and b.hash = coalesce(s.pins ->> $2::text, flowcraft_resolve_blueprint($2::text, null))
		where s.run_id = $1::text`,
		[claimed.key.runId, blueprintId],
	)
	const startNodes = JSON.parse(row?.start_nodes ?? '[]') as string[]
	return { type: 'child', blueprintId, input: startNodes.map((id) => [`_inputs.${id}`, input] as const) }
}

async function collectChild(
	engine: ExecutionEngine,
	node: NodeDefinition,
	claimed: ClaimedNode,
	context: BufferedContext,
): Promise<Execution> {
	const { blueprintId, outputs } = subflowParams(node)
	const { child } = claimed
	if (child === null) throw new Error(`The run of subflow '${blueprintId}' does not exist any more`)
	if (child.status !== 'completed') {
		throw new Error(
			`Sub-workflow '${blueprintId}' did not complete successfully. Status: ${child.status}. Error: ${child.reason ?? 'unknown'}`,
		)
	}
	const { codec } = engine.workflows
	if (outputs !== undefined) {
		const all = await engine.reader.readAll(child.runId)
		for (const [parentKey, childKey] of Object.entries(outputs)) {
			await context.set(
				parentKey,
				codec.decode(all.get(`_outputs.${childKey}`) ?? all.get(childKey) ?? null),
			)
		}
		const output = Object.fromEntries([...all].map(([key, text]) => [key, codec.decode(text)]))
		return { type: 'completed', result: { output }, writes: context.written() }
	}
	const terminal = await terminalNodesOf(engine, child.runId)
	const found = await engine.reader.readKeys(
		child.runId,
		terminal.map((id) => `_outputs.${id}`),
	)
	const outputOf = (id: string): unknown => codec.decode(found.get(`_outputs.${id}`) ?? null)
	const [only] = terminal
	const output =
		terminal.length === 1 && only !== undefined
			? outputOf(only)
			: Object.fromEntries(terminal.map((id) => [id, outputOf(id)]))
	return { type: 'completed', result: { output }, writes: [] }
}

async function terminalNodesOf(engine: ExecutionEngine, runId: string): Promise<readonly string[]> {
	const [row] = await ask<{ blueprint_id: string; blueprint_hash: string }>(
		engine,
		'select blueprint_id, blueprint_hash from flowcraft_statuses where run_id = $1::text',
		[runId],
	)
	const graph =
		row === undefined ? undefined : await engine.blueprints.graph(row.blueprint_id, row.blueprint_hash)
	return graph?.terminalNodes ?? []
}

/** Deterministic, so that a repeated commit means the same child; new with each attempt. */
async function childRunId({ key, attempt }: ClaimedNode): Promise<string> {
	const hash = await contentHash(
		JSON.stringify([key.runId, key.nodeId, key.generation, key.recovers, attempt]),
	)
	return `${hash.slice(0, 8)}-${hash.slice(8, 12)}-8${hash.slice(13, 16)}-a${hash.slice(17, 20)}-${hash.slice(20)}`
}

// ── Planning ───────────────────────────────────────────────────────────────────────────────────────────────────────

async function planned(
	engine: ExecutionEngine,
	graph: BlueprintGraph,
	claimed: ClaimedNode,
	execution: Execution,
): Promise<NodeCommit> {
	const { key, token } = claimed
	switch (execution.type) {
		case 'waiting':
			return {
				key,
				token,
				outcome: 'waiting',
				wait: JSON.stringify(execution.wait),
				waitEvent: execution.event,
				delayMs: execution.delayMs,
				writes: execution.writes,
				...(execution.events === undefined ? {} : { events: execution.events }),
			}
		case 'child':
			return {
				key,
				token,
				outcome: 'child',
				childRunId: await childRunId(claimed),
				childBlueprint: execution.blueprintId,
				childInput: execution.input,
			}
		case 'more': {
			const plan = planWithoutRetry(() => planMore(graph, plannedNode(claimed), execution.dynamicNodes))
			return { key, token, outcome: 'pending', writes: execution.writes, ...storedPlan(engine, plan) }
		}
		case 'completed': {
			const { result, writes } = execution
			const { codec, runtime } = engine.workflows
			const output = codec.encode(`_outputs.${key.nodeId}`, result.output)
			const scope = {
				evaluator: runtime.evaluator,
				context: await scopeOf(engine, graph, claimed, result, writes),
			}
			const plan = planWithoutRetry(() => planCompletion(graph, plannedNode(claimed), result, scope))
			return {
				key,
				token,
				outcome: 'completed',
				output,
				action: typeof result.action === 'string' ? result.action : undefined,
				writes,
				webhook: execution.webhook,
				...(execution.events === undefined ? {} : { events: execution.events }),
				...storedPlan(engine, plan),
			}
		}
	}
}

function plannedNode({ key, dynamic }: ClaimedNode): PlannedNode {
	return {
		nodeId: key.nodeId,
		generation: key.generation,
		recovers: key.recovers,
		dynamic: readDynamic(dynamic),
	}
}

/** The context keys that the expressions on this node's edges name, as they will be once the node is committed. */
async function scopeOf(
	engine: ExecutionEngine,
	graph: BlueprintGraph,
	claimed: ClaimedNode,
	result: NodeResult,
	writes: Writes,
): Promise<Record<string, unknown>> {
	const needed = keysNeededBy(
		graph,
		edgesOf(graph, plannedNode(claimed)),
		engine.workflows.runtime.evaluator,
	)
	if (needed !== 'all' && needed.length === 0) return {}
	const { codec } = engine.workflows
	const stored =
		needed === 'all'
			? await engine.reader.readAll(claimed.key.runId)
			: await engine.reader.readKeys(claimed.key.runId, needed)
	const isNeeded = (key: string): boolean => needed === 'all' || needed.includes(key)
	const scope = new Map<string, unknown>([...stored].map(([key, text]) => [key, codec.decode(text)]))
	for (const [key, text] of writes) {
		if (text === null) scope.delete(key)
		else if (isNeeded(key)) scope.set(key, codec.decode(text))
	}
	const outputs: [string, unknown][] = [
		...recoveredBy(claimed.key.recovers).map((failed): [string, unknown] => [failed, null]),
		[claimed.key.nodeId, result.output],
	]
	for (const [nodeId, output] of outputs) {
		for (const key of [nodeId, `_outputs.${nodeId}`]) if (isNeeded(key)) scope.set(key, output)
	}
	return Object.fromEntries(scope)
}

/** The node has done its work: an expression that throws fails it, but does not run it again. */
function planWithoutRetry(plan: () => Plan): Plan {
	try {
		return plan()
	} catch (error) {
		throw new ExpressionError(toError(error))
	}
}

/** A condition or transform threw; `message` is that of what it threw. */
class ExpressionError extends Error {
	constructor(cause: Error) {
		super(cause.message, { cause })
		this.name = cause.name
	}
}

function storedPlan(
	engine: ExecutionEngine,
	plan: Plan,
): Pick<NodeCommit, 'next' | 'raises' | 'arrivals' | 'recovered'> {
	const store = (input: PlannedInput, nodeId: string): StoredInput =>
		input.type === 'value'
			? { type: 'value', text: engine.workflows.codec.encode(`_inputs.${nodeId}`, input.value) }
			: input
	return {
		next: plan.next.map((next) => ({ ...next, input: store(next.input, next.nodeId) })),
		raises: plan.raises,
		arrivals: plan.arrivals.map((arrival) => ({
			...arrival,
			input: store(arrival.input, arrival.nodeId),
		})),
		recovered: plan.recovered,
	}
}

// ── Failures ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** `maxRetries` is the total number of attempts; 0 means 1. */
const maxAttempts = (node: NodeDefinition): number => Math.max(node.config?.maxRetries ?? 1, 1)

function failed(
	engine: ExecutionEngine,
	graph: BlueprintGraph,
	node: NodeDefinition,
	claimed: ClaimedNode,
	error: Error,
): NodeCommit {
	const final = isFatal(error) || error instanceof UnstorableValueError || error instanceof ExpressionError
	if (!final && claimed.attempt < maxAttempts(node)) {
		emit(engine, { type: 'node:retry', payload: { ...eventPayload(claimed), attempt: claimed.attempt } })
		return {
			key: claimed.key,
			token: claimed.token,
			outcome: 'retry',
			error: describe(error),
			delayMs: retryDelay(node, claimed.attempt),
		}
	}
	emit(engine, { type: 'node:error', payload: { ...eventPayload(claimed), error: error as never } })
	return failureCommit(graph, claimed, error)
}

/** Doubles with each attempt from the node's `retryDelay`, capped and jittered. */
function retryDelay(node: NodeDefinition, attempt: number): number {
	const base = node.config?.retryDelay ?? DEFAULT_RETRY_DELAY_MS
	return withJitter(Math.min(base * 2 ** (attempt - 1), MAX_RETRY_DELAY_MS))
}

function deadLetter(claimed: ClaimedNode, graph: BlueprintGraph | undefined, message: string): NodeEnd {
	return {
		type: 'commit',
		commit: { ...failureCommit(graph, claimed, new Error(message)), deadLetter: message },
	}
}

function failureCommit(graph: BlueprintGraph | undefined, claimed: ClaimedNode, error: Error): NodeCommit {
	const { key, token } = claimed
	const plan =
		graph === undefined
			? undefined
			: planFailure(graph, plannedNode(claimed), { isFatal: isFatal(error) })
	return {
		key,
		token,
		outcome: 'failed',
		error: describe(error),
		reason: storable(`Node '${key.nodeId}' failed: ${error.message}`),
		// A fallback takes no input from the node that failed.
		next: (plan?.next ?? []).map((next) => ({ ...next, input: { type: 'none' } })),
	}
}

function fatal(message: string): Error {
	return Object.assign(new Error(message), { isFatal: true })
}

/** What people need to understand an error, as a JSON object. */
function describe(error: Error, depth = 0): string {
	return JSON.stringify(describeObject(error, depth))
}

function describeObject(error: Error, depth: number): Record<string, unknown> {
	return {
		name: error.name,
		message: storable(error.message),
		...(error.stack === undefined ? {} : { stack: storable(error.stack) }),
		...(isFatal(error) ? { isFatal: true } : {}),
		...(error.cause instanceof Error && depth < 3
			? { cause: describeObject(error.cause, depth + 1) }
			: {}),
	}
}

/** Text that Postgres takes, of a size that people read. */
function storable(text: string): string {
	return text.slice(0, 8_000).replaceAll('\u0000', '\uFFFD').toWellFormed()
}

// ── Helpers ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A read of the engine's own, asked again while Postgres is away. */
function ask<T extends Row>(
	{ db }: ExecutionEngine,
	text: string,
	parameters: readonly Parameter[],
): Promise<T[]> {
	return whileUnavailable('A read of the engine', () => query<T>(db, text, parameters))
}

function parseObject(text: string | null): Record<string, unknown> {
	return text === null ? {} : (JSON.parse(text) as Record<string, unknown>)
}

function decodeText(engine: ExecutionEngine, text: unknown): unknown {
	return engine.workflows.codec.decode(typeof text === 'string' ? text : null)
}

type Event = Parameters<ExecutionEngine['workflows']['runtime']['eventBus']['emit']>[0]

const eventPayload = ({
	key,
	blueprintId,
}: ClaimedNode): { nodeId: string; executionId: string; blueprintId: string } => ({
	nodeId: key.nodeId,
	executionId: key.runId,
	blueprintId,
})

/** The user's event bus only observes: what it throws is its own affair. */
function emit({ workflows }: ExecutionEngine, event: Event): void {
	void (async () => workflows.runtime.eventBus.emit(event))().catch(() => {})
}
