import { afterAll, beforeAll } from 'vitest'
import { noLogger } from '../../src/ports/logger.js'
import { createInProcessBroker } from '../../worker/broker/in-process.js'
import { createRabbitMqBroker } from '../../worker/broker/rabbitmq.js'
import { describeBroker } from '../contract/broker.contract.js'
import { RabbitMqAdmin } from './rabbitmq-admin.js'

const url = process.env['TEST_RABBITMQ_URL'] ?? 'amqp://guest:guest@127.0.0.1:5672'

describeBroker('in process', { open: (options) => createInProcessBroker(options) })

let admin: RabbitMqAdmin
beforeAll(async () => {
	admin = await RabbitMqAdmin.connect(url)
})
afterAll(() => admin.close())

describeBroker('RabbitMQ', {
	open: ({ queues, deliveryLimit }) =>
		createRabbitMqBroker({ url, queues, deliveryLimit, jobsExchange: `${queues[0]}-jobs`, logger: noLogger }),
	remove: ({ queues }) => admin.remove(`${queues[0]}-jobs`, queues),
})
