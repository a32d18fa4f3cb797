/** One attempt of a node: what its implementation or a built-in node comes to, or what it has waited for. */
import type { NodeContext, NodeDefinition, NodeResult } from 'flowcraft'
import type { BlueprintGraph } from '../../src/blueprint/graph.js'
import type { ClaimedNode } from '../../src/claim/claim.js'
import { createStep } from '../../src/claim/steps.js'
import type { AwaitedEvent, NodeCommit, OutboxEvent } from '../../src/commit/commit.js'
import { BufferedContext } from '../../src/context/node-context.js'
import { gatherGeneration } from '../../src/plan/plan.js'
import type { CommitCallback } from '../transaction/commit.js'
import { ClaimLostError } from './aborts.js'
import { type AttemptLimit, runAttempt } from './attempt.js'
import { gather, scatter } from './batch.js'
import { sleepDuration, turnLoop } from './built-in.js'
import { BusinessEvents } from './business-events.js'
import { CommitCallbacks } from './commit-callbacks.js'
import { emit, type ExecutionEngine, plannedNode } from './engine.js'
import { maxAttempts } from './failure.js'
import { createDependencies, NodeState } from './node-dependencies.js'
import { resolveInput } from './node-input.js'
import { collectChild, startChild } from './subflow.js'
import { eventOfDetails, NodeWaitTimeoutError, readWait } from './wait.js'
import { webhookExpiry } from './webhook.js'

/** What an attempt came to, before it is planned. */
export type Execution =
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

export type Writes = readonly (readonly [key: string, text: string | null])[]

export async function execute(
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

function parseObject(text: string | null): Record<string, unknown> {
	return text === null ? {} : (JSON.parse(text) as Record<string, unknown>)
}

function decodeText(engine: ExecutionEngine, text: unknown): unknown {
	return engine.workflows.codec.decode(typeof text === 'string' ? text : null)
}
