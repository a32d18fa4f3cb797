/** `/openapi.json` and `/docs`. */
import { jsonTextResponse } from '../answer.js'
import type { AddEndpoint, App, EndpointDefinition } from '../endpoint.js'
import { renderDocsPage } from '../docs-page.js'
import { VERSION } from '../../src/version.js'
import { createDocument } from '../openapi.js'

const openApiEndpoint = {
	method: 'get',
	path: '/openapi.json',
	operationId: 'getOpenApi',
	tag: 'Operations',
	scope: 'open',
	summary: 'This document',
	answers: {
		200: {
			description: 'OpenAPI 3.1.',
			example: {
				openapi: '3.1.0',
				info: { title: 'flowcraft-outbox', version: VERSION },
				paths: {},
			},
		},
	},
	problems: ['too-many-requests', 'unavailable'],
} as const satisfies EndpointDefinition

const docsEndpoint = {
	method: 'get',
	path: '/docs',
	operationId: 'getDocs',
	tag: 'Operations',
	scope: 'open',
	summary: 'This document as a page',
	answers: {
		200: {
			description: 'HTML that needs nothing else.',
			mediaType: 'text/html',
			example: '<!doctype html>\n<title>flowcraft-outbox API</title>',
		},
	},
	problems: ['too-many-requests', 'unavailable'],
} as const satisfies EndpointDefinition

export function addDocumentationRoutes(add: AddEndpoint, app: App, publicUrl?: string): void {
	// Made when first asked for: most processes never are.
	let json: string | undefined
	let html: string | undefined
	add(openApiEndpoint, () => jsonTextResponse((json ??= JSON.stringify(createDocument(app, publicUrl)))))
	add(docsEndpoint, () => {
		html ??= renderDocsPage(createDocument(app, publicUrl))
		return new Response(html, {
			headers: {
				'Content-Type': 'text/html; charset=utf-8',
				'X-Content-Type-Options': 'nosniff',
				'Referrer-Policy': 'no-referrer',
				'Content-Security-Policy':
					"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
			},
		})
	})
}
