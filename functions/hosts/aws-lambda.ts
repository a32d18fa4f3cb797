/**
 * The functions on AWS Lambda, behind an HTTP API of API Gateway or a function URL. `handler` answers in one piece;
 * `streamingHandler` is for function URLs with the invoke mode RESPONSE_STREAM.
 */
import { createFrozenHostApp } from './setup.js'
import { createLambdaHandler, createStreamingLambdaHandler } from './lambda-events.js'

/** An instance answers one request at a time. */
const POOL_SIZE = 1

const app = createFrozenHostApp(process.env, POOL_SIZE)

export const handler = createLambdaHandler(app)
export const streamingHandler = createStreamingLambdaHandler(app)
