/**
 * A second model of joins, loops and batches, for tests only, and unlike the planner: not a graph with components and
 * arrivals, but a program of nested blocks, of which it follows by recursion what runs and how often. It is the reference
 * where the in-process runtime is none: `any` joins with several arrivals, nested loops, joins in loops that are fed from
 * outside, chunked batches.
 */

export type Program =
	| { readonly type: 'leaf'; readonly fate: 'done' | 'fails' | 'rescued' }
	| { readonly type: 'sequence'; readonly parts: readonly Program[] }
	/** All branches run. `isFed`: a node outside of everything leads into the join, too. */
	| {
			readonly type: 'parallel'
			readonly join: 'all' | 'any'
			readonly isFed: boolean
			readonly branches: readonly Program[]
	  }
	/** One branch runs. An `all` join of several branches then never does. */
	| {
			readonly type: 'choice'
			readonly join: 'all' | 'any'
			readonly taken: number
			readonly branches: readonly Program[]
	  }
	| {
			readonly type: 'loop'
			readonly turns: number
			readonly controllerJoin: 'all' | 'any'
			readonly body: Program
	  }
	| { readonly type: 'batch'; readonly items: number; readonly chunkSize: number }

/** What has to be true of a run in the end. */
export interface Outcome {
	readonly status: 'completed' | 'failed'
	/** Every node that ran, in every turn of the loops around it: `node@turns`. Sorted; each of them once. */
	readonly ran: readonly string[]
}

/** A node in a turn of each loop around it, outermost first; zeros at the end are left out, as is the `@` of none. */
export function at(nodeId: string, turns: readonly number[]): string {
	const last = turns.findLastIndex((turn) => turn > 0)
	return last < 0 ? nodeId : `${nodeId}@${turns.slice(0, last + 1).join('.')}`
}

/** The name of a block's node: where the block stands in its program, and what the node does there. */
export const nameOf = (role: string, path: readonly number[]): string => [role, ...path].join('_')

export function predict(program: Program): Outcome {
	const ran: string[] = []
	let failures = 0

	/** Runs a block in these turns. False: what follows it never runs. */
	function follow(block: Program, path: readonly number[], turns: readonly number[]): boolean {
		const run = (role: string, inTurns = turns): void => void ran.push(at(nameOf(role, path), inTurns))
		switch (block.type) {
			case 'leaf':
				run('leaf')
				if (block.fate === 'fails') failures += 1
				if (block.fate === 'rescued') run('fallback')
				return block.fate !== 'fails'
			case 'sequence':
				return block.parts.every((part, position) => follow(part, [...path, position], turns))
			case 'parallel': {
				run('fork')
				const ends = block.branches.map((branch, position) =>
					follow(branch, [...path, position], turns),
				)
				const joins = block.join === 'all' ? ends.every(Boolean) : ends.some(Boolean)
				if (joins) run('join')
				return joins
			}
			case 'choice': {
				run('router')
				const branch = block.branches[block.taken] as Program
				const joins = follow(branch, [...path, block.taken], turns) && block.join === 'any'
				if (joins) run('join')
				return joins
			}
			case 'loop': {
				run('reset')
				for (let turn = 0; turn < block.turns; turn++) {
					const within = [...turns, turn]
					run('controller', within)
					if (!follow(block.body, [...path, 0], within)) return false
					run('count', within)
				}
				run('controller', [...turns, block.turns])
				return true
			}
			case 'batch':
				run('list')
				run('scatter')
				for (let item = 0; item < block.items; item++) run(`item${item}`)
				run('gather')
				return true
		}
	}

	/** Nodes outside of everything run whether or not their join is ever reached. */
	function feed(block: Program, path: readonly number[]): void {
		if (block.type === 'parallel' && block.isFed) ran.push(nameOf('feeder', path))
		blocksIn(block).forEach((inner, position) => feed(inner, [...path, position]))
	}

	follow(program, [], [])
	feed(program, [])
	return { status: failures > 0 ? 'failed' : 'completed', ran: ran.sort() }
}

export function blocksIn(block: Program): readonly Program[] {
	switch (block.type) {
		case 'leaf':
		case 'batch':
			return []
		case 'sequence':
			return block.parts
		case 'parallel':
		case 'choice':
			return block.branches
		case 'loop':
			return [block.body]
	}
}
