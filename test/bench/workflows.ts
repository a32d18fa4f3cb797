/** The workflows that the benchmark runs: nodes that do nothing, so that what is measured is the engine. */
import type { NodeFunction, WorkflowBlueprint } from 'flowcraft'

export const registry: Record<string, NodeFunction> = {
	step: async ({ input }) => ({ output: input ?? 1 }),
}

function chain(length: number): WorkflowBlueprint {
	const ids = Array.from({ length }, (_, position) => `n${position}`)
	return {
		id: `chain-${length}`,
		nodes: ids.map((id) => ({ id, uses: 'step' })),
		edges: ids.slice(1).map((target, position) => ({ source: `n${position}`, target })),
	}
}

function fanOut(width: number): WorkflowBlueprint {
	const ids = Array.from({ length: width }, (_, position) => `w${position}`)
	return {
		id: `fan-out-${width}`,
		nodes: ['start', ...ids, 'end'].map((id) => ({ id, uses: 'step' })),
		edges: ids.flatMap((id) => [
			{ source: 'start', target: id },
			{ source: id, target: 'end' },
		]),
	}
}

const all = [chain(1), chain(3), chain(10), fanOut(100), fanOut(1000)]

export const blueprints: Record<string, WorkflowBlueprint> = Object.fromEntries(
	all.map((blueprint) => [blueprint.id, blueprint]),
)
