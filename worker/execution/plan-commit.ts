/** From what an attempt came to, to what its commit makes true: what follows in the run. */
import type { NodeResult } from 'flowcraft'
import type { BlueprintGraph } from '../../src/blueprint/graph.js'
import type { ClaimedNode } from '../../src/claim/claim.js'
import type { NodeCommit, StoredInput } from '../../src/commit/commit.js'
import { keysNeededBy } from '../../src/plan/expressions.js'
import { recoveredBy } from '../../src/plan/node-key.js'
import { edgesOf, type Plan, planCompletion, type PlannedInput, planMore } from '../../src/plan/plan.js'
import { toError } from './attempt.js'
import { type ExecutionEngine, plannedNode } from './engine.js'
import type { Execution, Writes } from './execute.js'
import { ExpressionError } from './failure.js'
import { childRunId } from './subflow.js'

export async function planCommit(
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
