/** What holds for every example workflow. */
import { analyzeBlueprint, lintBlueprint, SubflowNode, type WorkflowBlueprint } from 'flowcraft'
import { describe, expect, test } from 'vitest'
import { validateBlueprint } from '../../../src/blueprint/validate.js'
import { BUILT_IN_USES } from '../../../src/blueprint/register.js'
import { blueprints, registry } from '../../../worker/workflows/index.js'

const usesLoops = (blueprint: WorkflowBlueprint): boolean =>
	blueprint.nodes.some(({ uses }) => uses === 'loop-controller')

describe('the bundled workflows', () => {
	test.each(Object.values(blueprints))(
		'$id is valid, passes the linter, has cycles only where it says so and carries a version',
		(blueprint) => {
			expect(() => validateBlueprint(blueprint)).not.toThrow()
			const builtIn = Object.fromEntries([...BUILT_IN_USES].map((uses) => [uses, SubflowNode]))
			const fallbacks = new Set(blueprint.nodes.map(({ config }) => config?.fallback))
			// The linter follows edges alone: it takes a fallback for a node that nobody reaches.
			const { issues } = lintBlueprint(blueprint, { ...registry, ...builtIn }, blueprints)
			expect(
				issues.filter(({ code, nodeId }) => !(code === 'ORPHAN_NODE' && fallbacks.has(nodeId))),
			).toEqual([])
			expect(analyzeBlueprint(blueprint).isDag).toBe(!usesLoops(blueprint))
			expect(blueprint.metadata?.version).toMatch(/^\d+\.\d+\.\d+$/)
		},
	)

	test('are stored under their own ids', () => {
		for (const [id, blueprint] of Object.entries(blueprints)) expect(blueprint.id).toBe(id)
		expect(Object.keys(blueprints)).toEqual(
			expect.arrayContaining(['content-moderation', 'document-processing', 'order', 'research-loop']),
		)
	})

	test('survive JSON unchanged', () => {
		expect(JSON.parse(JSON.stringify(blueprints))).toEqual(blueprints)
	})
})
