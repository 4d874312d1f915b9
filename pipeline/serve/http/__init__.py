"""HTTP/1.1 on asyncio: connections, requests, problems, tokens, TLS.

Imported by `pipeline.serve.asking`, `pipeline.serve.models`, `pipeline.serve.prediction_queue`,
`pipeline.serve.protocols`, `pipeline.serve.request_body`, `pipeline.serve.server_process`,
`pipeline.serve.store_answers`.
"""
