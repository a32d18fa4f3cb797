import { createFlow } from 'flowcraft'
import { expect, test } from 'vitest'
import { blueprintIds } from '../../worker/execution/workflows.js'
import { welcome, type Welcome } from '../../worker/welcome.js'

const said = (more: Partial<Welcome>): string =>
	welcome({
		url: 'http://127.0.0.1:3000',
		dataDir: '/data',
		blueprints: ['content-moderation', 'order'],
		needsKey: false,
		...more,
	})

test('names the bundled example where it is there', () => {
	expect(said({})).toContain(`-d '{"blueprint":"content-moderation","input":{"userId":"user-1",`)
	expect(said({})).toContain('Start a run (of content-moderation, order):')
	expect(said({})).toContain('npm run demo')
})

test('names what WORKFLOWS has brought, and no example that is not there', () => {
	const own = said({ blueprints: ["ada's"] })
	expect(own).toContain(`-d '{"blueprint":"ada'\\''s","input":{}}'`)
	expect(own).not.toMatch(/content-moderation|npm run demo/)
	expect(said({ blueprints: [] })).toContain('PUT http://127.0.0.1:3000/blueprints/<id>')
})

test('says where the data is, and that a key is needed', () => {
	expect(said({})).toContain('an embedded Postgres in /data')
	expect(said({ dataDir: undefined })).toContain('your Postgres, RabbitMQ and Redis')
	expect(said({}).match(/authorization/g)).toBeNull()
	expect(said({ needsKey: true }).match(/authorization: Bearer/g)).toHaveLength(2)
})

test('ids are those of the blueprints, which builders carry themselves', () => {
	const blueprints = {
		mine: createFlow('built').node('only', async () => ({})),
		other: { id: 'written', nodes: [], edges: [] },
	}
	expect(blueprintIds({ blueprints })).toEqual(['built', 'written'])
})
