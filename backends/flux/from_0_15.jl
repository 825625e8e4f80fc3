# From Flux 0.15 on a recurrent layer is given a whole sequence and its initial state.

"Recurrent layers, their initial states (parameters, too) and the layers after them."
struct Network{R,S,H}
    recurrent::R
    states::S
    head::H
end

Flux.@layer Network

"Map inputs [1, steps, paths] to outputs of that shape."
function (m::Network)(x)
    for number in eachindex(m.recurrent)
        x = hidden(m.recurrent[number](x, m.states[number]))
    end
    return m.head(x)
end

hidden(h::AbstractArray) = h
hidden((h, _)::Tuple) = h  # The lstm of 0.15 returns its cell states, too.

function build(model, arrays)
    layer(cell, weights, state) = sequence(cell(weights...)), state
    layers, states = zip(recurrent(layer, model, arrays)...)
    return Network(Tuple(layers), Tuple(states), Flux.Chain(head(arrays)...))
end

sequence(cell::Flux.RNNCell) = Flux.RNN(cell)
sequence(cell::Flux.LSTMCell) = Flux.LSTM(cell)

optimiser(rule, network) = Flux.setup(rule, network)

function train!(training, x_ETB, y_ETB)
    return map(axes(x_ETB, 1)) do e
        x, y = x_ETB[e:e, :, :], y_ETB[e:e, :, :]
        loss, (gradient,) = Flux.withgradient(training.network) do m
            Flux.mse(m(x)[:, 2:end, :], y)
        end
        Flux.update!(training.optimiser, training.network, gradient)
        return loss
    end
end

predict(training, x_TN) = training.network(reshape(x_TN, 1, size(x_TN)...))[1, :, :]
