import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { applyEdit, missingTests, StalePatchError, withoutGuard } from '../mutation/guard.js'
import { guards } from '../mutation/guards/index.js'
import { PROJECT_ROOT } from '../support/process.js'

describe('each guard', () => {
	test.each(guards.map((guard) => [guard.name, guard] as const))(
		'can be taken away as test/mutation says, and who notices is there: %s',
		(_, guard) => {
			expect(withoutGuard(PROJECT_ROOT, guard).size).toBeGreaterThan(0)
			expect(missingTests(PROJECT_ROOT, guard)).toEqual([])
			expect(guard.noticedBy.length).toBeGreaterThan(0)
		},
	)

	test('stands in ARCHITECTURE.md, and nothing else does', () => {
		const [, section = ''] = readFileSync(join(PROJECT_ROOT, 'ARCHITECTURE.md'), 'utf8').split(
			'## Guards\n',
		)
		const table = section.split('\n## ')[0] ?? ''
		const listed = [...table.matchAll(/^\| ([a-z-]+) \|/gm)].map(([, name]) => name)
		expect(listed.filter((name) => name !== 'guard')).toEqual(guards.map(({ name }) => name))
	})

	test('has a name of its own', () => {
		expect(new Set(guards.map(({ name }) => name)).size).toBe(guards.length)
	})
})

describe('a patch', () => {
	const edit = { file: 'x', find: 'if (held) return', replace: '' }

	test('applies where its text stands once', () => {
		expect(applyEdit('a; if (held) return; b', edit)).toBe('a; ; b')
	})

	test('fails where the code has moved on, stands twice, or nothing would change', () => {
		expect(() => applyEdit('if (isHeld) return', edit)).toThrow(StalePatchError)
		expect(() => applyEdit('if (held) return; if (held) return', edit)).toThrow('2 times')
		expect(() => applyEdit('if (held) return', { ...edit, replace: edit.find })).toThrow(
			'changes nothing',
		)
	})
})
