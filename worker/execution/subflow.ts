/** Subflows: a run of its own for each, started with the node's input, whose outputs become the node's output. */
import type { NodeDefinition } from 'flowcraft'
import { contentHash } from '../../src/blueprint/hash.js'
import type { ClaimedNode } from '../../src/claim/claim.js'
import type { BufferedContext } from '../../src/context/node-context.js'
import { subflowParams } from './built-in.js'
import { ask, type ExecutionEngine } from './engine.js'
import type { Execution } from './execute.js'
import { fatal } from './failure.js'
import { resolveInput } from './node-input.js'

/** Parents above a run at most: a subflow that calls itself ends here. */
const MAX_DEPTH = 32

export async function startChild(
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

export async function collectChild(
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
export async function childRunId({ key, attempt }: ClaimedNode): Promise<string> {
	const hash = await contentHash(
		JSON.stringify([key.runId, key.nodeId, key.generation, key.recovers, attempt]),
	)
	return `${hash.slice(0, 8)}-${hash.slice(8, 12)}-8${hash.slice(13, 16)}-a${hash.slice(17, 20)}-${hash.slice(20)}`
}
