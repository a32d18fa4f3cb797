/** What `npm start` and its like do when whoever supervises them ends npm. */
import { afterAll, beforeAll, test } from 'vitest'
import { spawnProgram } from '../support/process.js'
import { processStart } from '../support/process-start.js'
import { freshDatabase, type FreshDatabase, freshQueueName, rabbitMq } from '../support/services/index.js'
import { waitFor } from '../support/wait-for.js'

let fresh: FreshDatabase
beforeAll(async () => {
	fresh = await freshDatabase()
})
afterAll(() => fresh.drop())

test.each([
	['start:functions', '"Listening"', /"Stopped"/],
	['start:relay', 'The relay runs', /The relay has stopped/],
] as const)(
	'npm run %s, of which only npm is told to stop, stops in order and leaves nothing behind',
	async (script, ready, stopped) => {
		const running = spawnProgram({
			name: script,
			command: 'npm',
			args: ['run', script],
			env: {
				DATABASE_URL: fresh.url,
				RABBITMQ_URL: (await rabbitMq()).url,
				QUEUE_NAME: freshQueueName(),
				PORT: '0',
			},
		})
		const line = await running.waitForLine(ready)
		const { pid } = JSON.parse(line) as { readonly pid: number }
		try {
			process.kill(running.pid, 'SIGTERM')
			await waitFor('the process to be gone', () => processStart(pid) === undefined)
			await waitFor('its last words', () => stopped.test(running.lines.join('\n')))
		} finally {
			if (processStart(pid) !== undefined) process.kill(pid, 'SIGKILL')
		}
	},
)
