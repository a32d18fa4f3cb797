# One image for all three programs; the command picks one:
#   node dist/functions/node.js      HTTP (the default)
#   node dist/worker/relay.main.js   outbox to broker, and the sweep
#   node dist/worker/worker.main.js  runs the nodes
# and node dist/worker/db/migrate.main.js brings the database up to date.

FROM node:20.20-bookworm-slim AS base
WORKDIR /app
COPY package.json package-lock.json .npmrc ./

FROM base AS build
# No dependency has to run an install script to compile TypeScript.
RUN npm ci --ignore-scripts
COPY tsconfig.json tsconfig.build.json ./
COPY src src
COPY functions functions
COPY worker worker
RUN npm run build

FROM base AS dependencies
RUN npm ci --omit=dev --ignore-scripts && npm cache clean --force

FROM base
ENV NODE_ENV=production HOST=0.0.0.0 PORT=3000
COPY --from=dependencies /app/node_modules node_modules
COPY --from=build /app/dist dist
USER node
EXPOSE 3000
CMD ["node", "dist/functions/node.js"]
