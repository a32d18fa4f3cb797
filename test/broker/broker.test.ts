import { beforeAll } from 'vitest'
import { noLogger } from '../../src/ports/logger.js'
import { createInProcessBroker } from '../../worker/broker/in-process.js'
import { createRabbitMqBroker } from '../../worker/broker/rabbitmq.js'
import { describeBroker } from '../contract/broker.contract.js'
import { rabbitMq } from '../support/services/index.js'
import { RabbitMqAdmin } from './rabbitmq-admin.js'

describeBroker('in process', { open: (options) => createInProcessBroker(options) })

let url: string
let admin: RabbitMqAdmin
beforeAll(async () => {
	url = (await rabbitMq()).url
	admin = new RabbitMqAdmin(url)
})

describeBroker('RabbitMQ', {
	open: ({ queues, deliveryLimit }) =>
		createRabbitMqBroker({
			url,
			queues,
			deliveryLimit,
			jobsExchange: `${queues[0]}-jobs`,
			logger: noLogger,
		}),
	remove: ({ queues }) => admin.remove(`${queues[0]}-jobs`, queues),
})
