/**
 * Random blueprints whose result does not depend on timing and is not among the settled differences from the in-process
 * runtime (ARCHITECTURE.md): what the generator leaves out is said where it leaves it out.
 */
import fc from 'fast-check'
import type { EdgeDefinition, NodeDefinition, WorkflowBlueprint } from 'flowcraft'

/** What a node does, in the words of `catalogue.ts`'s registry. */
type Behaviour = 'value' | 'echo' | 'write' | 'route' | 'fail' | 'fatal' | 'flaky' | 'exhausted' | 'rescued'

interface NodePlan {
	readonly behaviour: Behaviour
	/** Distances back to the predecessors. */
	readonly back: readonly number[]
	readonly join: 'all' | 'any'
	/** Kind of each incoming edge. */
	readonly edges: readonly ('plain' | 'true' | 'false' | 'action' | 'other' | 'transform')[]
}

const nodePlan: fc.Arbitrary<NodePlan> = fc.record({
	behaviour: fc.oneof(
		{ weight: 8, arbitrary: fc.constantFrom<Behaviour>('value', 'echo', 'write') },
		{ weight: 2, arbitrary: fc.constant<Behaviour>('route') },
		{ weight: 2, arbitrary: fc.constantFrom<Behaviour>('flaky', 'rescued') },
		{ weight: 1, arbitrary: fc.constantFrom<Behaviour>('fail', 'fatal', 'exhausted') },
	),
	back: fc.uniqueArray(fc.integer({ min: 1, max: 6 }), { maxLength: 3 }),
	join: fc.constantFrom('all', 'any'),
	edges: fc.array(fc.constantFrom('plain', 'plain', 'true', 'false', 'action', 'other', 'transform'), {
		minLength: 3,
		maxLength: 3,
	}),
})

export interface RandomCase {
	readonly blueprint: Omit<WorkflowBlueprint, 'id'>
	/** Constructs in it, for the table of what was covered. */
	readonly constructs: ReadonlySet<string>
}

export const randomCase: fc.Arbitrary<RandomCase> = fc
	.array(nodePlan, { minLength: 2, maxLength: 10 })
	.map(build)

function build(plans: readonly NodePlan[]): RandomCase {
	const nodes: NodeDefinition[] = []
	const edges: EdgeDefinition[] = []
	const constructs = new Set<string>()
	const behaviours: Behaviour[] = []
	plans.forEach((plan, position) => {
		const candidates = plan.back.map((distance) => position - distance).filter((source) => source >= 0)
		// In process an `any` join knows nothing of a fallback that stands in for one of its predecessors.
		const sources =
			candidates.length > 1 && plan.join === 'any'
				? candidates.filter((source) => plans[source]?.behaviour !== 'rescued')
				: candidates
		const isAllJoin = sources.length > 1 && plan.join === 'all'
		if (sources.length > 1) constructs.add(`${plan.join} join`)
		if (sources.length === 0 && position > 0) constructs.add('several starts')
		// In process the default input of a join is that of whoever came last, and an `any` join may run several times: the
		// first must not look at its input, the second not even notice.
		const isAnyJoin = sources.length > 1 && plan.join === 'any'
		const sameEachTime = ['value', 'write', 'route'].includes(plan.behaviour)
		const behaviour =
			(plan.behaviour === 'echo' && sources.length > 1) || (isAnyJoin && !sameEachTime)
				? 'value'
				: plan.behaviour
		behaviours.push(behaviour)
		constructs.add(behaviour)
		nodes.push(...nodesOf(`n${position}`, behaviour, sources.length > 1 ? plan.join : undefined))
		sources.forEach((source, index) => {
			// In process an `all` join depends on who comes last if an edge into it is not taken: all of ours are.
			// And a transform into an `any` join stays in force for its later runs.
			const wanted = plan.edges[index] ?? 'plain'
			const always = behaviours[source] === 'route' ? 'action' : 'plain'
			const kind = isAllJoin || (sources.length > 1 && wanted === 'transform') ? always : wanted
			constructs.add(`${kind} edge`)
			edges.push({ source: `n${source}`, target: `n${position}`, ...edgeOf(kind) })
		})
	})
	// In process a node whose edges are all of other actions takes all of them: each source of such edges has a way out.
	const stuck = new Set(edges.filter((edge) => edge.action !== undefined).map((edge) => edge.source))
	for (const source of stuck) {
		const exit = `${source}_exit`
		nodes.push({ id: exit, uses: 'value', params: { value: exit } })
		edges.push({ source, target: exit, action: 'go' }, { source, target: exit })
	}
	return { blueprint: { nodes, edges }, constructs }
}

function nodesOf(id: string, behaviour: Behaviour, join: 'all' | 'any' | undefined): NodeDefinition[] {
	const config = join === undefined ? {} : { joinStrategy: join }
	const node = (
		uses: string,
		params: Record<string, unknown> = {},
		more: NodeDefinition['config'] = {},
	): NodeDefinition => ({
		id,
		uses,
		params,
		config: { ...config, ...more },
	})
	switch (behaviour) {
		case 'value':
			return [node('value', { value: { id, yes: true, no: false, list: [id] } })]
		case 'echo':
			return [node('wrap', { as: id })]
		case 'write':
			return [node('context', { writes: { [`key of ${id}`]: { by: id } } })]
		case 'route':
			// A router returns its input, so one behind a join names it.
			return [
				{ ...node('route', { action: 'go' }), ...(join === undefined ? {} : { inputs: 'nothing' }) },
			]
		case 'fail':
			return [node('fail', { message: `${id} failed` })]
		case 'fatal':
			return [node('fatal', {}, { maxRetries: 3, retryDelay: 1 })]
		case 'flaky':
			return [node('flaky', { name: id, succeedsAt: 2 }, { maxRetries: 2, retryDelay: 1 })]
		case 'exhausted':
			return [node('flaky', { name: id, succeedsAt: 3 }, { maxRetries: 2, retryDelay: 1 })]
		case 'rescued':
			// The fallback succeeds: in process a join takes a failed node for completed before its fallback has run.
			return [
				node('fail', {}, { fallback: `${id}_fallback` }),
				{ id: `${id}_fallback`, uses: 'value', params: { value: `${id} rescued` } },
			]
	}
}

function edgeOf(kind: NodePlan['edges'][number]): Partial<EdgeDefinition> {
	switch (kind) {
		case 'plain':
			return {}
		case 'true':
			return { condition: 'result' }
		case 'false':
			return { condition: 'absent.key' }
		case 'action':
			return { action: 'go' }
		case 'other':
			return { action: 'elsewhere' }
		case 'transform':
			return { transform: 'input.list' }
	}
}
