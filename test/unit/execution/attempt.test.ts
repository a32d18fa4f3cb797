import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { NodeContext } from 'flowcraft'
import { expect, test } from 'vitest'
import { type AttemptInput, AttemptLimit, runAttempt } from '../../../worker/execution/attempt.js'

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

const attempt = async (signal: AbortSignal, implementation: (context: NodeContext) => Promise<object>) => {
	const limit = new AttemptLimit(signal)
	limit.start(60_000)
	try {
		return await runAttempt({
			node: { id: 'n', uses: 'n' },
			implementation: implementation as AttemptInput['implementation'],
			context: {} as AttemptInput['context'],
			middleware: [],
			isLastAttempt: true,
			signal: limit.signal,
		})
	} finally {
		limit.stop()
	}
}

test('an attempt with a timeout leaves no signal behind when it has ended, whoever listened to it', async () => {
	const { signal } = new AbortController()
	const given: WeakRef<AbortSignal>[] = []
	for (let i = 0; i < 50; i++) {
		await attempt(signal, async (context) => {
			context.signal?.addEventListener('abort', () => {})
			if (context.signal !== undefined) given.push(new WeakRef(context.signal))
			return {}
		})
	}
	await new Promise((resolve) => setImmediate(resolve))
	collectGarbage()
	expect(given).toHaveLength(50)
	// The last one may still be on the stack.
	expect(given.filter((reference) => reference.deref() !== undefined).length).toBeLessThan(5)
})

test('an attempt under a signal that is aborted already does not begin', async () => {
	let began = false
	const run = attempt(AbortSignal.abort(new Error('over')), async () => ((began = true), {}))
	await expect(run).rejects.toThrow('over')
	expect(began).toBe(false)
})
