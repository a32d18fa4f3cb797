/** The nodes that the engine provides: they hold no worker while they wait. A registry's own node of the same key wins. */
import {
	FlowcraftError,
	type IEvaluator,
	type NodeDefinition,
	type NodeResult,
	PropertyEvaluator,
} from 'flowcraft'
import type { BufferedContext } from '../../src/context/node-context.js'
import { DURATION_FORMS, parseDuration } from './duration.js'

/**
 * How long a `sleep` node sleeps, in ms: a number of ms, or text like `5m`, `10s`, `1h`, `2d`.
 * @throws FlowcraftError, fatal: another attempt would read the same
 */
export function sleepDuration(node: NodeDefinition): number {
	const duration: unknown = node.params?.['duration']
	const ms = parseDuration(duration)
	if (ms !== undefined) return ms
	throw new FlowcraftError(
		`Sleep node '${node.id}' has the invalid duration ${JSON.stringify(duration)}: expected ${DURATION_FORMS}`,
		{ nodeId: node.id, isFatal: true },
	)
}

export interface SubflowParams {
	readonly blueprintId: string
	/** Child's key → key or node of the parent. */
	readonly inputs: Readonly<Record<string, string>> | undefined
	/** Parent's key → node or key of the child. */
	readonly outputs: Readonly<Record<string, string>> | undefined
}

/** @throws FlowcraftError, fatal */
export function subflowParams(node: NodeDefinition): SubflowParams {
	const { blueprintId, inputs, outputs } = (node.params ?? {}) as Record<string, unknown>
	if (typeof blueprintId !== 'string') {
		throw new FlowcraftError(`Subflow node '${node.id}' is missing the 'blueprintId' parameter.`, {
			nodeId: node.id,
			isFatal: true,
		})
	}
	return {
		blueprintId,
		inputs: mapping(node, 'inputs', inputs),
		outputs: mapping(node, 'outputs', outputs),
	}
}

function mapping(node: NodeDefinition, name: string, value: unknown): Record<string, string> | undefined {
	if (value === undefined || value === null) return undefined
	if (typeof value === 'object' && Object.values(value).every((key) => typeof key === 'string'))
		return value as Record<string, string>
	throw new FlowcraftError(
		`Subflow node '${node.id}' has invalid '${name}': expected an object of key names.`,
		{
			nodeId: node.id,
			isFatal: true,
		},
	)
}

/** The controller of a loop: one more turn, or out. */
export async function turnLoop(
	node: NodeDefinition,
	context: BufferedContext,
	evaluator: IEvaluator,
): Promise<NodeResult> {
	const condition: unknown = node.params?.['condition']
	if (typeof condition !== 'string') {
		throw new FlowcraftError(`Loop controller '${node.id}' is missing the 'condition' parameter.`, {
			nodeId: node.id,
			isFatal: true,
		})
	}
	// Flowcraft's own evaluator splits at dots and looks up the first part; others may look anywhere.
	const scope =
		evaluator instanceof PropertyEvaluator
			? await context.pick([condition.split('.')[0] ?? ''])
			: await context.toJSON()
	return evaluator.evaluate(condition, scope) ? { action: 'continue' } : { action: 'break', output: null }
}
