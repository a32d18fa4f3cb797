/**
 * Loops of a blueprint: its strongly connected components, and those within them. A loop has one entry; the edges from
 * inside it into its entry are where it turns, and without them its body holds only the loops nested in it.
 */
import type { WorkflowBlueprint } from 'flowcraft'

export interface BlueprintLoop {
	/**
	 * The node that each turn begins with: the loop's controller, where the way in leads to one; else an entry point of the
	 * blueprint's; else where the way in leads; else the first of the loop's nodes in the blueprint, as in process.
	 */
	readonly entry: string
	readonly nodes: ReadonlySet<string>
}

/** The loops around each node, outermost first; nodes outside loops are not in the map. */
export type LoopsByNode = ReadonlyMap<string, readonly BlueprintLoop[]>

interface Link {
	readonly source: string
	readonly target: string
}

export function findLoops(blueprint: WorkflowBlueprint): LoopsByNode {
	const loopsByNode = new Map<string, BlueprintLoop[]>()
	const order = new Map(blueprint.nodes.map((node, position) => [node.id, position]))
	const byOrder = (a: string, b: string): number => (order.get(a) ?? 0) - (order.get(b) ?? 0)
	const preferred = new Set(blueprint.metadata?.cycleEntryPoints ?? [])
	const controllers = new Set(
		blueprint.nodes.filter((node) => node.uses === 'loop-controller').map((node) => node.id),
	)

	const chooseEntry = (component: ReadonlySet<string>): string => {
		const members = [...component].sort(byOrder)
		const fromOutside = new Set(
			blueprint.edges
				.filter((edge) => component.has(edge.target) && !component.has(edge.source))
				.map((edge) => edge.target),
		)
		return (
			members.find((id) => fromOutside.has(id) && controllers.has(id)) ??
			members.find((id) => preferred.has(id)) ??
			members.find((id) => fromOutside.has(id)) ??
			(members[0] as string)
		)
	}

	// Outer loops before inner ones: each component's inner edges, less those that turn it, are looked at again.
	const pending: { nodes: readonly string[]; links: readonly Link[] }[] = [
		{ nodes: blueprint.nodes.map((node) => node.id), links: blueprint.edges },
	]
	for (let part = pending.pop(); part !== undefined; part = pending.pop()) {
		const { nodes, links } = part
		const selfLinked = new Set(
			links.filter((link) => link.source === link.target).map((link) => link.source),
		)
		for (const component of stronglyConnected(nodes, links)) {
			const [first] = component
			if (component.size === 1 && !selfLinked.has(first as string)) continue
			const inner = links.filter((link) => component.has(link.source) && component.has(link.target))
			const loop: BlueprintLoop = { entry: chooseEntry(component), nodes: component }
			for (const id of component) loopsByNode.set(id, [...(loopsByNode.get(id) ?? []), loop])
			pending.push({ nodes: [...component], links: inner.filter((link) => link.target !== loop.entry) })
		}
	}
	return loopsByNode
}

/** Tarjan's algorithm with a stack of its own: blueprints may be many thousand nodes deep. */
function stronglyConnected(nodes: readonly string[], links: readonly Link[]): Set<string>[] {
	const targets = new Map<string, string[]>(nodes.map((id) => [id, []]))
	for (const link of links) if (targets.has(link.target)) targets.get(link.source)?.push(link.target)
	const index = new Map<string, number>()
	const low = new Map<string, number>()
	const onStack = new Set<string>()
	const stack: string[] = []
	const components: Set<string>[] = []

	for (const root of nodes) {
		if (index.has(root)) continue
		const work: { id: string; next: number }[] = [{ id: root, next: 0 }]
		while (work.length > 0) {
			const frame = work[work.length - 1] as { id: string; next: number }
			const { id } = frame
			if (frame.next === 0) {
				index.set(id, index.size)
				low.set(id, index.get(id) as number)
				stack.push(id)
				onStack.add(id)
			}
			const target = targets.get(id)?.[frame.next]
			frame.next += 1
			if (target === undefined) {
				work.pop()
				const parent = work[work.length - 1]
				if (parent !== undefined)
					low.set(parent.id, Math.min(low.get(parent.id) as number, low.get(id) as number))
				if (low.get(id) === index.get(id)) components.push(popComponent(id))
			} else if (!index.has(target)) {
				work.push({ id: target, next: 0 })
			} else if (onStack.has(target)) {
				low.set(id, Math.min(low.get(id) as number, index.get(target) as number))
			}
		}
	}
	return components

	function popComponent(id: string): Set<string> {
		const component = new Set<string>()
		for (;;) {
			const member = stack.pop() as string
			onStack.delete(member)
			component.add(member)
			if (member === id) return component
		}
	}
}
