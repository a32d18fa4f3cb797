/** What the execution of nodes needs of its worker. */
import type { BlueprintStore } from '../../src/blueprint/store.js'
import type { ClaimedNode } from '../../src/claim/claim.js'
import type { ContextReader } from '../../src/context/reading.js'
import { type Executor, type Parameter, query, type Row } from '../../src/db/query.js'
import { whileUnavailable } from '../../src/db/retry.js'
import { readDynamic } from '../../src/plan/dynamic.js'
import type { PlannedNode } from '../../src/plan/plan.js'
import type { Emitter } from './emitter.js'
import type { WebhookUrls } from './webhook.js'
import type { Workflows } from './workflows.js'

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

/** A read of the engine's own, asked again while Postgres is away. */
export function ask<T extends Row>(
	{ db }: ExecutionEngine,
	text: string,
	parameters: readonly Parameter[],
): Promise<T[]> {
	return whileUnavailable('A read of the engine', () => query<T>(db, text, parameters))
}

type Event = Parameters<ExecutionEngine['workflows']['runtime']['eventBus']['emit']>[0]

export const eventPayload = ({
	key,
	blueprintId,
}: ClaimedNode): { nodeId: string; executionId: string; blueprintId: string } => ({
	nodeId: key.nodeId,
	executionId: key.runId,
	blueprintId,
})

/** The user's event bus only observes: what it throws is its own affair. */
export function emit({ workflows }: ExecutionEngine, event: Event): void {
	void (async () => workflows.runtime.eventBus.emit(event))().catch(() => {})
}

/** The node as the planner sees it. */
export function plannedNode({ key, dynamic }: ClaimedNode): PlannedNode {
	return {
		nodeId: key.nodeId,
		generation: key.generation,
		recovers: key.recovers,
		dynamic: readDynamic(dynamic),
	}
}
