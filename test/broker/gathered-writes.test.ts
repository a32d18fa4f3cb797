import type { ChannelModel } from 'amqplib'
import { Writable } from 'node:stream'
import { expect, test } from 'vitest'
import { gatherWrites } from '../../worker/broker/rabbitmq/gathered-writes.js'

/** A socket that notes what it is given at a time. */
function openSocket(): { socket: Writable; model: ChannelModel; calls: string[] } {
	const calls: string[] = []
	const socket = new Writable({
		write(chunk: Buffer, _encoding, done) {
			calls.push(chunk.toString())
			done()
		},
		writev(chunks, done) {
			calls.push(chunks.map(({ chunk }: { chunk: Buffer }) => chunk.toString()).join('+'))
			done()
		},
	})
	return { socket, model: { connection: { stream: socket } } as unknown as ChannelModel, calls }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

test('what is written in one turn goes out together, in order, and nothing waits for more', async () => {
	const { socket, model, calls } = openSocket()
	gatherWrites(model)
	for (const text of ['a', 'b', 'c']) socket.write(text)
	expect(calls).toEqual([])
	await turn()
	socket.write('d')
	await turn()
	expect(calls).toEqual(['a+b+c', 'd'])
})

test('the socket still says when it is full', async () => {
	const { socket, model } = openSocket()
	gatherWrites(model)
	expect(socket.write('x'.repeat(socket.writableHighWaterMark))).toBe(false)
	const drained = new Promise((resolve) => socket.once('drain', resolve))
	await turn()
	await drained
	expect(socket.write('y')).toBe(true)
})

test('a connection that is made otherwise is left as it is', () => {
	expect(() => gatherWrites({ connection: {} } as unknown as ChannelModel)).not.toThrow()
})
