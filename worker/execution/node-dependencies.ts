/** What a node finds in `dependencies`, beside what the workflows module gives. */
import { type NodeContext, WorkflowState } from 'flowcraft'
import type { ClaimedNode } from '../../src/claim/claim.js'
import type { RunStep } from '../../src/claim/steps.js'
import type { BlueprintGraph } from '../../src/blueprint/graph.js'
import type { BufferedContext } from '../../src/context/node-context.js'
import { keyText } from '../../src/plan/node-key.js'
import type { BusinessEvents } from './business-events.js'
import type { CommitCallbacks } from './commit-callbacks.js'
import type { DurableDependencies } from './durable-dependencies.js'
import type { Emit } from './emitter.js'
import type { Workflows } from './workflows.js'

/** A node asked to wait: it ends this attempt without ending. */
export interface WaitRequest {
	readonly details: Readonly<Record<string, unknown>>
}

/** Flowcraft's `workflowState` for one attempt of one node: remembers whether the node asked to wait. */
export class NodeState extends WorkflowState<Record<string, unknown>> {
	private request: WaitRequest | undefined

	constructor(
		private readonly ownId: string,
		context: BufferedContext,
	) {
		super({}, context)
	}

	/** @throws if the node names another one: only the node itself can wait here */
	override async markAsAwaiting(nodeId: string, details?: unknown): Promise<void> {
		if (nodeId !== '' && nodeId !== this.ownId) {
			throw new Error(
				`Node '${this.ownId}' cannot make node '${nodeId}' wait: markAsAwaiting takes the node's own id.`,
			)
		}
		this.request = { details: typeof details === 'object' && details !== null ? { ...details } : {} }
	}

	override isAwaiting(): boolean {
		return this.request !== undefined
	}

	override getAwaitingNodeIds(): string[] {
		return this.request === undefined ? [] : [this.ownId]
	}

	waitRequest(): WaitRequest | undefined {
		return this.request
	}
}

/** The same for every attempt of a node, different for every other node, generation and run. */
function idempotencyKeyOf({ key }: ClaimedNode): string {
	return keyText(key)
}

export function createDependencies(
	workflows: Workflows,
	graph: BlueprintGraph,
	claimed: ClaimedNode,
	state: NodeState,
	signal: AbortSignal,
	step: RunStep,
	events: BusinessEvents,
	emit: Emit,
	callbacks: CommitCallbacks,
): NodeContext['dependencies'] {
	const { runtime } = workflows
	const services = {
		logger: runtime.logger,
		eventBus: runtime.eventBus,
		serializer: runtime.serializer,
		evaluator: runtime.evaluator,
		middleware: runtime.middleware,
		dependencies: runtime.dependencies,
	}
	// Flowcraft does not export the class; this is its shape.
	const executionContext = {
		blueprint: graph.blueprint,
		state,
		nodeRegistry: runtime.registry,
		executionId: claimed.key.runId,
		runtime,
		services,
		signal,
		concurrency: undefined,
		createForSubflow() {
			throw new Error(
				'A distributed node cannot run a subflow inline: use a node with uses: "subflow".',
			)
		},
	}
	const durable: DurableDependencies = {
		idempotencyKey: idempotencyKeyOf(claimed),
		attempt: claimed.attempt,
		traceparent: claimed.traceparent ?? undefined,
		step,
		emit,
		publish: (...event) => events.publish(...event),
		onCommit: (callback) => callbacks.add(callback),
	}
	return {
		...runtime.dependencies,
		logger: runtime.logger,
		runtime: executionContext as NodeContext['dependencies']['runtime'],
		workflowState: state,
		...durable,
	}
}
