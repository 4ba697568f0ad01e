"""The OpenAPI document: made from the routes, the models and the errors, so that it says what the code does."""
